// An image as the model's input, as preprocess.json says: x = (raw * scale - mean) / std.

/** {dtype, shape, data} from an ImageBitmap; `canvas` keeps what the model sees. */
export function encode(bitmap, spec, canvas) {
  const [height, width] = spec.size ?? [bitmap.height, bitmap.width];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  const channels = spec.channels;
  const first = spec.layout === "NCHW";
  const whole = /int/.test(spec.dtype);
  const data = whole ? new { uint8: Uint8Array, int8: Int8Array, int32: Int32Array }[spec.dtype](channels * height * width)
    : new Float32Array(channels * height * width);
  const at = (list, c, otherwise) => (list.length ? list[list.length === 1 ? 0 : c] : otherwise);
  for (let p = 0; p < height * width; p += 1) {
    const [r, g, b, alpha] = pixels.subarray(4 * p, 4 * p + 4);
    // Gray as ITU-R 601-2 weighs it.
    const raw = channels === 1 ? [Math.round(0.299 * r + 0.587 * g + 0.114 * b)] : [r, g, b, alpha];
    for (let c = 0; c < channels; c += 1) {
      const value = whole ? raw[c] : (raw[c] * spec.scale - at(spec.mean, c, 0)) / at(spec.std, c, 1);
      data[first ? c * height * width + p : p * channels + c] = value;
    }
  }
  const shape = first ? [1, channels, height, width] : [1, height, width, channels];
  return { dtype: spec.dtype, shape, data };
}

/** Show an input tensor that is image-like; false where it is not. */
export function show(tensor, spec, canvas) {
  if (spec.layout === null || tensor.shape.length !== 4 || ![1, 3, 4].includes(spec.channels)) return false;
  const first = spec.layout === "NCHW";
  const [height, width] = first ? tensor.shape.slice(2) : tensor.shape.slice(1, 3);
  const channels = spec.channels;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const [low, high] = extent(tensor.data.subarray(0, channels * height * width));
  const level = (c, p) => {
    const value = Number(tensor.data[first ? c * height * width + p : p * channels + c]);
    return high > low ? (255 * (value - low)) / (high - low) : 127;
  };
  for (let p = 0; p < height * width; p += 1) {
    for (let c = 0; c < 3; c += 1) image.data[4 * p + c] = level(channels === 1 ? 0 : c, p);
    image.data[4 * p + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return true;
}

/** Paint the class of each pixel of a [1, C, H, W] or [1, H, W, C] output. */
export function paintMap(values, shape, first, canvas) {
  const [height, width] = first ? shape.slice(2) : shape.slice(1, 3);
  const classes = first ? shape[1] : shape[3];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const [low, high] = extent(values.subarray(0, classes * height * width));
  for (let p = 0; p < height * width; p += 1) {
    let best = 0, most = -Infinity;
    for (let c = 0; c < classes; c += 1) {
      const value = values[first ? c * height * width + p : p * classes + c];
      if (value > most) [best, most] = [c, value];
    }
    const rgb = classes === 1 ? Array(3).fill((255 * (most - low)) / (high - low || 1)) : colour(best);
    image.data.set([...rgb, 255], 4 * p);
  }
  context.putImageData(image, 0, 0);
}

function colour(index) {
  // Golden-angle hues: neighbouring classes look different.
  const hue = (index * 137.508) % 360, f = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.52 - 0.32 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [f(0), f(8), f(4)];
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    low = Math.min(low, Number(value));
    high = Math.max(high, Number(value));
  }
  return [low, high];
}
