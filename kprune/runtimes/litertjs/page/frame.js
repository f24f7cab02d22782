// The one file of this iframe, compiled for WebAssembly and run on one thread.

import {loadAndCompile, loadLiteRt, Tensor} from "@litertjs/core";

/** What LiteRT has printed as errors, without level and source file. */
function errors() {
  const lines = window.printed.flatMap((text) => text.split("\n")).map((line) => line.trim());
  const found = lines.filter((line) => /^(ERROR|FATAL|Aborted)\b/.test(line));
  return found.map((line) => line.replace(/^(ERROR|FATAL):\s*(\[[\w.]+:\d+\])?\s*/, ""));
}

async function reasoned(promise) {
  try {
    return await promise;
  } catch (error) {
    throw new Error([...new Set([...errors(), String(error?.message ?? error)])].join("; "));
  }
}

async function load(bytes) {
  await loadLiteRt("./litert/core/wasm/");
  return loadAndCompile(bytes, {accelerator: "wasm", cpuOptions: {numThreads: 1}});
}

function describe(details) {
  return details.map(({name, dtype, shape}) => ({name, dtype, shape: [...shape]}));
}

class Model {
  constructor(model) {
    this.model = model;
    this.inputs = describe(model.getInputDetails());
    this.outputs = describe(model.getOutputDetails());
    for (const {name, shape} of this.inputs) {
      if (shape.every((size) => size > 0)) continue;
      throw new Error(
        `its input '${name}' has dynamic dimensions (${shape}), and LiteRT.js takes fixed ones only; ` +
          "export it with a batch size",
      );
    }
  }

  /** Take the inputs of the runs that follow: {name: {data, shape}}. */
  set(feeds) {
    this.feeds = this.inputs.map(({name}) => {
      if (!(name in feeds)) throw new Error(`no value for the input '${name}'`);
      const {data, shape} = feeds[name];
      // Another window's Float32Array is not this one's: LiteRT would not know it.
      return {data: new window[data.constructor.name](data), shape};
    });
  }

  /** Run once; {name: typed array}. */
  async run() {
    const before = errors().length;
    const outputs = await reasoned(this.#run());
    // LiteRT.js 2.5 hands out zeros, and throws nothing, where XNNPACK could not run.
    if (errors().length > before) throw new Error([...new Set(errors())].join("; "));
    return outputs;
  }

  async #run() {
    const tensors = this.feeds.map(({data, shape}) => new Tensor(data, shape));
    let results = [];
    try {
      results = await this.model.run(tensors);
      return Object.fromEntries(
        results.map((tensor, i) => [this.outputs[i].name, tensor.toTypedArray()]),
      );
    } finally {
      for (const tensor of [...tensors, ...results]) tensor.delete();
    }
  }

  /** Run `times` times; milliseconds that each took, in the mean. */
  async time(times) {
    const start = performance.now();
    for (let i = 0; i < times; i++) await this.#run();
    return (performance.now() - start) / times;
  }
}

window.openModel = async (bytes) => new Model(await reasoned(load(new Uint8Array(bytes))));
