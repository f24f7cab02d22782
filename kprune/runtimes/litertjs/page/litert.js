// Files side by side in LiteRT.js: what the benchmark and the page for people both use.

const VISIT_MS = 20;
const MAX_RUNS_A_VISIT = 200;

export const ARRAYS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};

/** Load a file in an iframe of its own. Throws an error with LiteRT's reason. */
export async function open(bytes) {
  const frame = document.createElement("iframe");
  frame.src = "frame.html";
  frame.hidden = true;
  await new Promise((loaded, failed) => {
    frame.onload = loaded;
    frame.onerror = failed;
    document.body.append(frame);
  });
  if (!frame.contentWindow.openModel) {
    frame.remove();
    throw new Error("LiteRT.js is not there: ./litert/ must hold the npm scope @litertjs");
  }
  try {
    const model = await frame.contentWindow.openModel(bytes);
    return {
      inputs: model.inputs,
      outputs: model.outputs,
      set: (feeds) => model.set(feeds),
      run: () => model.run(),
      time: (times) => model.time(times),
      close: () => frame.remove(),
    };
  } catch (error) {
    frame.remove();
    throw error;
  }
}

/** Warm up; how many runs a visit shall have, so that short ones are not all clock noise. */
export async function calibrate(model, warmup) {
  await model.time(warmup + 1);
  const latency = await model.time(3);
  return Math.max(1, Math.min(MAX_RUNS_A_VISIT, Math.round(VISIT_MS / Math.max(latency, 1e-3))));
}

/** One visit: a run that is not counted, then as many as told; mean milliseconds of a run. */
export async function visit(model, runs) {
  await model.time(1);
  return model.time(runs);
}

/** Let the browser draw and answer, between visits. */
export function breathe() {
  return new Promise((resume) => setTimeout(resume));
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
