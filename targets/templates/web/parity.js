// How far an output lies from its reference: max|got - ref| / range(ref), and 10 log10(sum ref^2 / sum (got - ref)^2).

const APART = { share: Infinity, snr: -Infinity };
const LEAST_PROBABILITY = 1e-30;

/** Both sides are {dtype, shape, data}. Probabilities are compared as logarithms, unless some have vanished. */
export function closeness(got, ref, softmax = false) {
  if (got.dtype !== ref.dtype || got.shape.join() !== ref.shape.join()) return APART;
  let a = numbers(got), b = numbers(ref);
  if (softmax && ref.dtype.startsWith("float") && a.length && Math.min(least(a), least(b)) >= LEAST_PROBABILITY) {
    a = a.map(Math.log);
    b = b.map(Math.log);
  }
  let low = Infinity, high = -Infinity, most = 0, worst = 0, noise = 0, signal = 0;
  for (let i = 0; i < b.length; i += 1) {
    if (!Number.isFinite(b[i]) || !Number.isFinite(a[i])) {
      if (Object.is(a[i], b[i])) continue;
      return APART;
    }
    const delta = Math.abs(a[i] - b[i]);
    low = Math.min(low, b[i]);
    high = Math.max(high, b[i]);
    most = Math.max(most, Math.abs(b[i]));
    worst = Math.max(worst, delta);
    noise += delta * delta;
    signal += b[i] * b[i];
  }
  if (noise === 0) return { share: 0, snr: Infinity };
  const scale = Math.max(high - low, most / 16) || 1; // nearly constant: no range
  return { share: worst / scale, snr: signal > 0 ? 10 * Math.log10(signal / noise) : -Infinity };
}

function least(values) {
  let low = Infinity;
  for (const value of values) low = Math.min(low, value);
  return low;
}

export function numbers({ dtype, data }) {
  if (dtype === "float16") return Float64Array.from(data, fromHalf);
  return Float64Array.from(data, Number);
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
