// Measures one model with onnxruntime-web, as `homoexport.worker.model` does with onnxruntime: it asks the
// bridge for a command, carries it out, and sends the answer with the next question. Times are nanoseconds,
// in the clock's own steps (5 us in a cross-origin isolated page, 100 us in others).
// B batch, S sequence.

const RUNTIMES = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };
// A graph of one Identity node (ONNX opset 13): opening it starts the runtime before any model is there.
const IDENTITY = "CAgSADo3ChAKAXgSAXkiCElkZW50aXR5EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ==";
const ARRAYS = { int64: BigInt64Array, int32: Int32Array };
const WARM_WINDOW_NS = 100e6;
const STEADY = 0.98; // a window whose median is below this share of the best one so far still gets faster
const SPIN_STEPS = 100; // steps of the clock that one quantum of spinning takes
const SPIN_ADDITIONS = 1e6; // what a quantum's time is told for, so that machines can be compared
const SPIN_SEARCH_MS = 50;
const SPIN_TRIES = 4;

const parameters = new URL(self.location.href).searchParams;
const backend = parameters.get("backend");
const threads = Number(parameters.get("threads"));
const pageStart = Number(parameters.get("start"));

let ort;
let session;
let outputs; // names to ask for
let batches = []; // feeds that take turns
let next = 0;
let spun = 0; // what the spinning came to, so that no compiler leaves it out

async function start() {
  const isolated = self.crossOriginIsolated === true;
  if (threads > 1 && !isolated) {
    throw new Error("more than one thread needs a cross-origin isolated page, and this browser does not isolate it");
  }
  const gpu = backend === "webgpu" ? await describeGpu() : null;
  ort = await import(`./ort/${RUNTIMES[backend]}`);
  ort.env.wasm.wasmPaths = new URL("ort/", self.location.href).href;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const identity = await open(Uint8Array.from(atob(IDENTITY), (letter) => letter.charCodeAt(0)), []);
  await identity.release();
  if (ort.env.wasm.numThreads !== threads) {
    throw new Error(`onnxruntime-web took ${ort.env.wasm.numThreads} threads where ${threads} were asked for`);
  }
  return {
    ok: true,
    ready_ns: toNs(performance.timeOrigin + performance.now() - pageStart),
    isolated,
    gpu,
    runtime: ort.env.versions.web ?? ort.env.versions.common,
    browser: await browserVersion(),
    clock_step_ns: clockStepNs(),
  };
}

async function describeGpu() {
  const adapter = await self.navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("this browser offers no WebGPU adapter here");
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  const name = [vendor, architecture, device, description].filter(Boolean).join(" ") || "unnamed";
  if (isFallbackAdapter || /swiftshader|llvmpipe/i.test(name)) {
    throw new Error(`the only WebGPU adapter here imitates a GPU in software (${name})`);
  }
  return name;
}

async function browserVersion() {
  const data = await self.navigator.userAgentData?.getHighEntropyValues(["fullVersionList"]);
  const named = data?.fullVersionList.find(({ brand }) => brand === "Chromium");
  return named?.version ?? self.navigator.userAgent;
}

function clockStepNs() {
  let least = Infinity;
  for (let i = 0; i < 20; i++) {
    const before = performance.now();
    let after = before;
    while (after === before) after = performance.now();
    least = Math.min(least, after - before);
  }
  return toNs(least);
}

function open(model, externalData) {
  return ort.InferenceSession.create(model, { executionProviders: [backend], externalData, logSeverityLevel: 3 });
}

function toNs(milliseconds) {
  return Math.round(milliseconds * 1e6);
}

async function download(name) {
  const response = await fetch(`model/${encodeURIComponent(name)}`);
  if (!response.ok) throw new Error(`${name}: HTTP status ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

const commands = {
  async open({ url }) {
    self.postMessage(url);
    await new Promise(() => {}); // the page goes, and this worker with it
  },

  async load({ model, beside, outputs: wanted }) {
    const started = performance.now();
    const [bytes, ...others] = await Promise.all([model, ...beside].map(download));
    session = await open(bytes, others.map((data, i) => ({ path: beside[i], data })));
    const load_ns = toNs(performance.now() - started);
    outputs = wanted ?? session.outputNames;
    return { load_ns };
  },

  async inputs({ batches: given }) {
    next = 0;
    batches = given.map(feedsOf);
    return { batches: batches.length };
  },

  async warm({ seconds }) {
    const first_inference_ns = await runNs();
    let [best, calm, runs, spent] = [Infinity, 0, 1, 0];
    for (;;) {
      const window = [];
      let sum = 0;
      while (sum < WARM_WINDOW_NS || window.length % batches.length) {
        window.push(await runNs());
        sum += window.at(-1);
      }
      const median = medianOf(window);
      calm = median < STEADY * best ? 0 : calm + 1;
      best = Math.min(best, median);
      runs += window.length;
      spent += sum;
      if (calm === 2 || spent >= seconds * 1e9) return { first_inference_ns, runs, steady: calm === 2, median_ns: median };
    }
  },

  async time({ runs }) {
    await runNs();
    next = 0;
    const samples_ns = [];
    for (let run = 0; run < runs; run++) samples_ns.push(await runNs());
    return { samples_ns };
  },

  async run_once() {
    await runNs();
    return {};
  },

  async answer({ output }) {
    const answer = (await session.run(batches[0], [output]))[output];
    const values = Float32Array.from(await answer.getData(), Number);
    const reply = { shape: answer.dims, float32: base64(new Uint8Array(values.buffer)) };
    answer.dispose();
    return reply;
  },

  async spin({ seconds }) {
    const quantum_ns = Math.max(SPIN_STEPS * clockStepNs(), 500e3);
    for (let tries = 1; ; tries++) {
      const count = spinCount(quantum_ns);
      const quanta_ns = [];
      const end = performance.now() + seconds * 1e3;
      while (performance.now() < end) quanta_ns.push(spinNs(count));
      // The compiler may have made the loop faster since its length was found.
      if (medianOf(quanta_ns) > quantum_ns / 2 || tries === SPIN_TRIES) {
        return { quanta_ns: quanta_ns.map((each) => (each * SPIN_ADDITIONS) / count) };
      }
    }
  },
};

// One batch, {input_ids, attention_mask, token_type_ids} of B rows of S, as tensors of the types that the model takes.
function feedsOf(values) {
  const dims = [values.input_ids.length, values.input_ids[0].length];
  const feeds = {};
  for (const { name, type } of session.inputMetadata) {
    if (!(name in values) || !(type in ARRAYS)) {
      throw new Error(`input '${name}' of type ${type} is not one of ${Object.keys(values).join(", ")} in integers`);
    }
    const convert = type === "int64" ? BigInt : Number;
    feeds[name] = new ort.Tensor(type, ARRAYS[type].from(values[name].flat(), convert), dims);
  }
  return feeds;
}

// One inference of the next batch; the answer is in this worker's memory at the end, and freed outside the time.
async function runNs() {
  const feeds = batches[next++ % batches.length];
  const started = performance.now();
  const answer = await session.run(feeds, outputs);
  const elapsed = toNs(performance.now() - started);
  for (const tensor of Object.values(answer)) tensor.dispose();
  return elapsed;
}

function medianOf(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Turns of the loop that take so long.
function spinCount(quantum_ns) {
  let count = 1000;
  const end = performance.now() + SPIN_SEARCH_MS;
  while (performance.now() < end) count = Math.ceil((count * quantum_ns) / Math.max(spinNs(count), quantum_ns / 8));
  return count;
}

function spinNs(count) {
  const started = performance.now();
  let total = spun;
  for (let i = 0; i < count; i++) total = (Math.imul(total, 1664525) + i) | 0;
  spun = total;
  return toNs(performance.now() - started);
}

function base64(bytes) {
  const parts = [];
  for (let i = 0; i < bytes.length; i += 0x8000) parts.push(String.fromCharCode(...bytes.subarray(i, i + 0x8000)));
  return btoa(parts.join(""));
}

// What is thrown is an Error, or where it comes out of compiled code, a bare number.
function told(error) {
  if (!(error instanceof Error)) return `error ${String(error)}`;
  return error.name === "Error" ? error.message : `${error.name}: ${error.message}`;
}

async function serve() {
  let reply = await start().catch((error) => ({ ok: false, fatal: true, error: told(error) }));
  for (;;) {
    const response = await fetch("next", { method: "POST", body: JSON.stringify(reply) });
    if (response.status === 204) {
      reply = null; // no command for a while; a connection must not wait for ever
      continue;
    }
    if (!response.ok) return; // another page has taken over
    const { command, ...request } = await response.json();
    reply = await commands[command](request).then(
      (answer) => ({ ok: true, ...answer }),
      (error) => ({ ok: false, error: told(error) }),
    );
  }
}

serve();
