// Runs the exported models, and steps by their gradient. All mathematics of the loss is in them.
let ort; // ONNX Runtime, loaded where there is a playground on the page

export const SIZE = 100;
export const LOSSES = ["outlier", "outlier_no_share", "density"]; // the models' order
const generated = new URL("../generated/", import.meta.url);
const sessions = {};

/** Load ONNX Runtime, and return the presets: the white pixels of prediction and truth. */
export async function load() {
  const scripts = new URL("onnxruntime/", generated);
  ort = await import(new URL("ort.wasm.bundle.min.mjs", scripts).href);
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", scripts).href };
  ort.env.wasm.numThreads = 1; // threads need headers that a plain file server does not send
  return (await fetch(new URL("models/presets.json", generated))).json();
}

/** Compute the maps of one loss. */
export async function mapsOf(window, loss, logits, target, numbers) {
  sessions[window] ??= ort.InferenceSession.create(
    new URL(`models/losses_${window}.onnx`, generated).href,
  );
  const session = await sessions[window];
  const feeds = {};
  for (const [name, values] of Object.entries({ logits, target })) {
    feeds[name] = new ort.Tensor("float32", Float32Array.from(values), [1, 1, SIZE, SIZE]);
  }
  for (const [name, number] of Object.entries(numbers)) {
    feeds[name] = new ort.Tensor("float32", [number], []);
  }
  const outputs = await session.run(feeds);
  const first = LOSSES.indexOf(loss) * SIZE * SIZE;
  return Object.fromEntries(
    Object.entries(outputs).map(([name, { data }]) => [
      name,
      data.slice(first, first + SIZE * SIZE),
    ]),
  );
}

/** torch.optim.Adam on one image of logits. */
export class Adam {
  #mean = new Float32Array(SIZE * SIZE);
  #square = new Float32Array(SIZE * SIZE);
  #steps = 0;

  step(logits, gradient, rate = 0.5, betas = [0.9, 0.999], epsilon = 1e-8) {
    this.#steps += 1;
    const [mean, square] = [this.#mean, this.#square];
    const [first, second] = betas.map((beta) => 1 - beta ** this.#steps);
    return logits.map((z, p) => {
      mean[p] += (1 - betas[0]) * (gradient[p] - mean[p]);
      square[p] += (1 - betas[1]) * (gradient[p] ** 2 - square[p]);
      return z - (rate * mean[p]) / first / (Math.sqrt(square[p] / second) + epsilon);
    });
  }
}
