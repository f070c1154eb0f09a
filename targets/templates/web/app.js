// The page: loads the model, takes an image or a reference input, shows the output and the parity figures.

import * as ort from "./ort/ort.bundle.mjs";
import { encode, paintMap, show } from "./image.js";
import { readNpz } from "./npz.js";
import { closeness, numbers } from "./parity.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const state = { manifest: null, preprocess: null, labels: [], references: new Map(), sessions: new Map(), provider: "wasm", here: [] };

function element(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text; // never HTML: names and labels come from elsewhere
  if (className) made.className = className;
  return made;
}

function row(...cells) {
  const made = document.createElement("tr");
  for (const [text, className] of cells) made.append(element("td", text, className));
  return made;
}

function readableTime(iso) {
  const told = new Date(iso);
  return Number.isNaN(told.valueOf()) ? iso : `${told.toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

function define(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([term, text]) => [element("dt", term), element("dd", text)]));
}

const AGAIN = "Copy the whole bundle to this server again.";

async function fetched(path) {
  const answer = await fetch(path).catch(() => null);
  if (answer === null) throw new Error(`${path}: the server does not answer.`);
  if (answer.status === 404) throw new Error(`${path} is missing on this server. ${AGAIN}`);
  if (!answer.ok) throw new Error(`${path}: the server answers ${answer.status} ${answer.statusText}.`);
  return answer;
}

async function fetchedJson(path) {
  const text = await (await fetched(path)).text();
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${path} is damaged (${error.message}). ${AGAIN}`);
  }
}

/** A reference's arrays, or the Error that says why they cannot be read: one bad file must not hide the others. */
async function fetchedReference(path) {
  try {
    const bytes = await (await fetched(path)).arrayBuffer();
    const arrays = await readNpz(bytes).catch((error) => {
      throw new Error(`${path} is damaged (${error.message}). ${AGAIN}`);
    });
    if (!side(arrays, "in|").size || !side(arrays, "out|").size) throw new Error(`${path} holds no inputs or no outputs. ${AGAIN}`);
    return arrays;
  } catch (error) {
    return error;
  }
}

// --- the model -----------------------------------------------------------------------------------

/** The bundle's providers that this browser has; `navigator.gpu` alone says little. */
async function providersHere() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return state.manifest.artefact.options.providers.filter((name) => name !== "webgpu" || adapter);
}

/** A session on `provider`, made once. */
function session(provider) {
  if (!state.sessions.has(provider)) {
    const threads = Number(query.get("threads") ?? Math.min(4, navigator.hardwareConcurrency || 1));
    ort.env.wasm.numThreads = crossOriginIsolated ? threads : 1;
    ort.env.logLevel = "error";
    const options = { executionProviders: [provider], graphOptimizationLevel: state.manifest.artefact.options.optimization };
    state.sessions.set(provider, ort.InferenceSession.create("./model.onnx", options));
  }
  return state.sessions.get(provider);
}

/** {outputs: Map name -> {dtype, shape, data}, ms}. */
async function run(provider, feeds) {
  const made = await session(provider);
  const tensors = {};
  for (const [name, { dtype, shape, data }] of feeds) tensors[name] = new ort.Tensor(dtype, data, shape);
  const begin = performance.now();
  const results = await made.run(tensors);
  const outputs = new Map();
  for (const name of made.outputNames) {
    const tensor = results[name];
    const data = tensor.location === "cpu" ? tensor.data : await tensor.getData();
    outputs.set(name, { dtype: tensor.type, shape: [...tensor.dims], data: bytesOf(data) });
  }
  return { outputs, ms: performance.now() - begin };
}

function bytesOf(data) {
  // A Float16Array is compared bit by bit with NumPy's: as unsigned words.
  return data.constructor.name === "Float16Array" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data;
}

const side = (arrays, prefix) =>
  new Map([...arrays].filter(([k]) => k.startsWith(prefix)).map(([k, v]) => [k.slice(prefix.length), v]));

// --- what is shown ---------------------------------------------------------------------------------

function showOutput(outputs, ms) {
  const first = state.manifest.outputs[0].name;
  const { shape, data, dtype } = outputs.get(first);
  const values = numbers({ dtype, data });
  const classes = shape.slice(1).reduce((a, b) => a * b, 1);
  const flat = shape.slice(1).filter((d) => d !== 1).length <= 1;
  $("classes").replaceChildren();
  $("map").hidden = true;
  if (flat && classes > 1) {
    const order = [...values.subarray(0, classes).keys()].sort((a, b) => values[b] - values[a]).slice(0, 5);
    const softmax = state.manifest.outputs[0].head === "softmax";
    const low = softmax ? 0 : Math.min(...order.map((k) => values[k]), 0);
    const high = softmax ? 1 : Math.max(...order.map((k) => values[k]), low + 1e-12);
    for (const k of order) {
      const item = document.createElement("li");
      const bar = document.createElement("meter");
      bar.min = 0;
      bar.max = 1;
      bar.value = (values[k] - low) / (high - low);
      const label = state.labels[k] ?? `class ${k}`;
      bar.setAttribute("aria-label", label);
      item.append(element("span", label, "label"), element("span", softmax ? percent(values[k]) : values[k].toPrecision(5), "value"), bar);
      $("classes").append(item);
    }
  } else if (shape.length === 4 && Math.max(...shape.slice(1)) > 1) {
    const channelsFirst = shape[1] < shape[3];
    paintMap(values, shape, channelsFirst, $("map"));
    $("map").hidden = false;
  }
  const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  define($("figures"), [
    ["time", `${ms.toFixed(1)} ms on ${state.provider}`],
    [first, `${dtype} ${shape.join(" × ")}`],
    ["range", `${low.toPrecision(5)} … ${high.toPrecision(5)}`],
  ]);
}

const percent = (p) => (p >= 0.001 || p === 0 ? `${(100 * p).toFixed(1)} %` : `${(100 * p).toExponential(1)} %`);

function badge(text, kind) {
  $("badge").textContent = text;
  $("badge").className = `badge ${kind}`;
}

async function onInput(feeds, what) {
  $("status").textContent = `Running ${what} …`;
  try {
    const { outputs, ms } = await run(state.provider, feeds);
    $("status").textContent = what;
    showOutput(outputs, ms);
    return { outputs, ms };
  } catch (error) {
    $("status").textContent = `It cannot be run: ${error.message ?? error}`;
    throw error;
  }
}

function press(group, chosen) {
  for (const button of group.children) button.setAttribute("aria-pressed", String(button.dataset.value === chosen));
}

async function takeReference(name) {
  press($("references"), name);
  const arrays = await state.references.get(name);
  if (arrays instanceof Error) {
    $("preview").hidden = true;
    $("drop-text").hidden = false;
    $("status").textContent = arrays.message;
    return;
  }
  const feeds = side(arrays, "in|");
  const visible = show(feeds.get(state.preprocess.input), state.preprocess, $("preview"));
  $("preview").hidden = !visible;
  $("drop-text").hidden = visible;
  await onInput(feeds, `Reference “${name}”`);
}

async function takeImage(file) {
  press($("references"), null);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    $("status").textContent = `${file.name} is not an image that this browser reads.`;
    return;
  }
  $("preview").hidden = false;
  $("drop-text").hidden = true;
  await onInput(new Map([[state.preprocess.input, encode(bitmap, state.preprocess, $("preview"))]]), file.name);
}

/** Replay every reference on every provider; the figures go into the table. */
async function checkParity() {
  const { gate, outputs: declared } = state.manifest;
  const softmax = new Set(declared.filter((t) => t.head === "softmax").map((t) => t.name));
  const body = $("parity").tBodies[0];
  body.replaceChildren();
  let checked = 0, failed = 0, worst = 0;
  const silent = [], unreadable = [];
  const readable = new Map();
  for (const [name, promised] of state.references) {
    const arrays = await promised;
    if (arrays instanceof Error) {
      unreadable.push(arrays.message);
      body.append(row([name], ["–"], ["–"], ["–", "number"], ["–", "number"], ["–", "number"], ["cannot be read", "bad"]));
    } else {
      readable.set(name, arrays);
    }
  }
  for (const provider of state.here) {
    for (const [name, arrays] of readable) {
      const expected = side(arrays, "out|");
      let got;
      try {
        got = await run(provider, side(arrays, "in|"));
      } catch (error) {
        silent.push(`${provider}: ${error.message ?? error}`);
        break;
      }
      for (const [output, ref] of expected) {
        const { share, snr } = closeness(got.outputs.get(output), ref, softmax.has(output));
        const held = share <= gate.max_abs_over_range && snr >= gate.snr_db;
        checked += 1;
        failed += held ? 0 : 1;
        worst = Math.max(worst, share);
        body.append(row([name], [output], [provider], [share.toExponential(2), "number"],
          [Number.isFinite(snr) ? `${snr.toFixed(1)} dB` : "exact", "number"], [`${got.ms.toFixed(1)} ms`, "number"],
          [held ? "same" : "differs", held ? "good" : "bad"]));
      }
    }
  }
  $("gate").textContent = `Bounds: max|Δ| ≤ ${gate.max_abs_over_range} of the range, SNR ≥ ${gate.snr_db} dB.`
    + (silent.length ? ` Not executed — ${silent.join("; ")}` : "");
  const good = checked > 0 && failed === 0 && unreadable.length === 0;
  $("verdict").textContent = unreadable.length
    ? `Not shown: ${unreadable.length} of ${state.references.size} references cannot be read. ${unreadable.join(" ")}`
      + (failed ? ` And ${failed} of ${checked} outputs are beyond the bounds.` : "")
    : good
    ? `Yes: ${checked} outputs, the largest difference is ${worst.toExponential(2)} of the output's range.`
    : checked === 0 ? "Nothing could be executed here." : `No: ${failed} of ${checked} outputs are beyond the bounds.`;
  $("verdict").className = `verdict ${good ? "good" : "bad"}`;
  badge(good ? "verified here" : "not verified", good ? "good" : "bad");
  return { same: checked - failed, all: checked + unreadable.length };
}

function showFacts() {
  const { manifest, preprocess } = state;
  document.title = manifest.name;
  $("name").textContent = manifest.name;
  $("about").textContent = `Made by ${manifest.made_by}, ${readableTime(manifest.created)}. It runs in this browser; nothing leaves it.`;
  for (const [word, list] of [["in", manifest.inputs], ["out", manifest.outputs]]) {
    for (const t of list) $("tensors").tBodies[0].append(row([word], [t.name], [t.dtype], [t.shape.map((d) => d ?? "?").join(" × ")]));
  }
  define($("facts"), [
    ["runtime", `onnxruntime-web ${manifest.artefact.options.onnxruntime_web}`],
    ["threads", crossOriginIsolated ? `up to ${Math.min(4, navigator.hardwareConcurrency || 1)}` : "1 (the server does not send COOP and COEP headers)"],
    ["pre-processing", `${preprocess.formula}; scale ${preprocess.scale}, mean ${preprocess.mean.join(", ") || "none"}, std ${preprocess.std.join(", ") || "none"}`],
    ["licences", Object.entries(manifest.licences).map(([k, v]) => `${k}: ${v}`).join("; ")],
    ["model.onnx", `SHA-256 ${manifest.files["model.onnx"]?.sha256 ?? "?"}`],
  ]);
}

function wire() {
  for (const name of state.references.keys()) {
    const button = element("button", name);
    button.dataset.value = name;
    button.addEventListener("click", () => takeReference(name).catch(console.error));
    $("references").append(button);
  }
  for (const name of state.manifest.artefact.options.providers) {
    const button = element("button", name === "wasm" ? "CPU (WebAssembly)" : "GPU (WebGPU)");
    button.dataset.value = name;
    button.disabled = !state.here.includes(name);
    if (button.disabled) button.title = "This browser offers no WebGPU here.";
    button.addEventListener("click", () => {
      state.provider = name;
      press($("providers"), name);
    });
    $("providers").append(button);
  }
  press($("providers"), state.provider);
  const usable = state.preprocess.layout !== null && [1, 3, 4].includes(state.preprocess.channels)
    && state.manifest.inputs.length === 1;
  if (!usable) {
    $("drop").classList.add("off");
    $("file").disabled = true;
    $("drop-text").replaceChildren(element("span", "This model's input is not an image. Take a reference input."));
    return;
  }
  $("file").addEventListener("change", ({ target }) => target.files[0] && takeImage(target.files[0]).catch(console.error));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
  addEventListener("dragleave", () => $("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) takeImage(file).catch(console.error);
  });
}

// --- driven by verify.py ---------------------------------------------------------------------------

/** Take feeds from the local server that opened this page and give back the outputs. */
async function driven(channel) {
  const provider = query.get("provider");
  const say = (path, body) => fetch(`${channel}/${path}`, { method: "POST", body });
  try {
    if (provider === "webgpu" && !(await navigator.gpu?.requestAdapter())) {
      await say("missing", "this browser offers no WebGPU adapter");
      return;
    }
    await session(provider);
    await say("ready", `${navigator.userAgent.match(/Chrom\w*\/[\d.]+/)?.[0] ?? navigator.userAgent}`);
    for (;;) {
      const answer = await fetch(`${channel}/next`);
      if (answer.status === 410) return;
      if (answer.status === 204) continue;
      const { outputs } = await run(provider, await readNpz(await answer.arrayBuffer()));
      const header = [...outputs].map(([name, { dtype, shape, data }]) => ({ name, dtype, shape, bytes: data.byteLength }));
      await say("outputs", new Blob([`${JSON.stringify(header)}\n`, ...[...outputs.values()].map((o) => o.data)]));
    }
  } catch (error) {
    await say("failed", String(error.message ?? error)).catch(() => {});
  }
}

async function main() {
  state.manifest = await fetchedJson("manifest.json");
  const channel = query.get("drive");
  if (channel && /^\/[0-9a-f]{32}$/.test(channel)) {
    await driven(channel);
    return;
  }
  state.preprocess = await fetchedJson("preprocess.json");
  if (state.manifest.labels) state.labels = (await (await fetched("labels.txt")).text()).split("\n").slice(0, -1);
  for (const path of state.manifest.references) {
    const name = path.replace(/^references\/|\.npz$/g, "");
    state.references.set(name, fetchedReference(path));
  }
  state.here = await providersHere();
  showFacts();
  wire();
  const names = [...state.references.keys()];
  const readable = [];
  for (const name of names) if (!((await state.references.get(name)) instanceof Error)) readable.push(name);
  await takeReference(readable.find((name) => !name.startsWith("zeros")) ?? readable[0] ?? names[0]);
  const found = await checkParity();
  document.documentElement.dataset.checked = `${found.same}/${found.all}`;
}

main().catch((error) => {
  $("status").textContent = `The page cannot start: ${error.message ?? error}`;
  badge("failed", "bad");
  document.documentElement.dataset.checked = "error";
});
