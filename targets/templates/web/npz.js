// Reads NumPy's .npz: a zip of .npy files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).

const ARRAYS = {
  f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, b1: Uint8Array, i2: Int16Array,
  u2: Uint16Array, i4: Int32Array, u4: Uint32Array, i8: BigInt64Array, u8: BigUint64Array, f2: Uint16Array,
};
export const DTYPES = {
  f4: "float32", f8: "float64", i1: "int8", u1: "uint8", b1: "bool", i2: "int16", u2: "uint16", i4: "int32",
  u4: "uint32", i8: "int64", u8: "uint64", f2: "float16",
};

/** Map of name -> {dtype, shape, data}, names without ".npy". */
export async function readNpz(buffer) {
  const view = new DataView(buffer);
  const arrays = new Map();
  if (!buffer.byteLength) throw new Error("the file is empty");
  for (const entry of directory(view)) {
    const bytes = await contents(buffer, view, entry);
    arrays.set(entry.name.replace(/\.npy$/, ""), readNpy(bytes));
  }
  return arrays;
}

function directory(view) {
  // End of central directory: signature 0x06054b50, within the last 64 KiB.
  let end = view.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) throw new Error("no zip archive");
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  const entries = [];
  for (let k = 0; k < count; k += 1) {
    if (view.getUint32(at, true) !== 0x02014b50) throw new Error("damaged zip archive");
    const nameLength = view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(new Uint8Array(view.buffer, at + 46, nameLength));
    entries.push({
      name, method: view.getUint16(at + 10, true), packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true), offset: view.getUint32(at + 42, true),
    });
    at += 46 + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return entries;
}

async function contents(buffer, view, entry) {
  const { offset, packed, size, method } = entry;
  const start = offset + 30 + view.getUint16(offset + 26, true) + view.getUint16(offset + 28, true);
  const raw = buffer.slice(start, start + packed);
  if (method === 0) return raw;
  if (method !== 8) throw new Error(`zip method ${method} is not known`);
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = await new Response(stream).arrayBuffer();
  if (bytes.byteLength !== size) throw new Error(`${entry.name} is damaged`);
  return bytes;
}

function readNpy(bytes) {
  const view = new DataView(bytes);
  if (view.getUint32(0) !== 0x934e554d) throw new Error("no .npy array");
  const long = view.getUint8(6) >= 2;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = long ? 12 : 10;
  const header = new TextDecoder("latin1").decode(new Uint8Array(bytes, start, length));
  const [, order, kind] = /'descr': *'([<|>=])([a-z]\d+)'/.exec(header) ?? [];
  if (!(kind in ARRAYS) || order === ">") throw new Error(`array type ${header} is not known`);
  if (/'fortran_order': *True/.test(header)) throw new Error("Fortran order is not known");
  const shape = /'shape': *\(([^)]*)\)/.exec(header)[1].split(",").map((s) => s.trim()).filter(Boolean).map(Number);
  const data = new ARRAYS[kind](bytes.slice(start + length));
  if (data.length !== shape.reduce((a, b) => a * b, 1)) throw new Error("an array is not as long as its shape says");
  return { dtype: DTYPES[kind], shape, data };
}
