// Driven by kprune/measure/browser.py: does the job it serves and tells it what happens.

import {ARRAYS, calibrate, open, visit} from "./litert.js";

function tell(event) {
  return fetch("event", {method: "POST", body: JSON.stringify(event)});
}

async function bytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return response.arrayBuffer();
}

async function feedsOf(file, i) {
  const feeds = {};
  for (const [j, {name, dtype, shape}] of file.inputs.entries()) {
    if (!(dtype in ARRAYS)) throw new Error(`LiteRT.js takes no input of dtype ${dtype}`);
    feeds[name] = {data: new ARRAYS[dtype](await bytes(`input/${i}/${j}`)), shape};
  }
  return feeds;
}

/** Load a file, run it, hand its outputs over; null and the reason told where it does not run. */
async function start(job, i) {
  await tell({stage: "load", file: i});
  try {
    const feeds = await feedsOf(job.files[i], i);
    const model = await open(new Uint8Array(await bytes(`file/${i}`)));
    await tell({stage: "run", file: i});
    model.set(feeds);
    const outputs = await model.run();
    for (const [name, data] of Object.entries(outputs)) {
      await fetch(`output/${i}/${encodeURIComponent(name)}/${data.constructor.name}`, {
        method: "POST",
        body: data,
      });
    }
    if (!job.orders.length) {
      model.close();
      return null;
    }
    return {model, runs: await calibrate(model, job.warmup)};
  } catch (error) {
    await tell({stage: "failed", file: i, reason: String(error?.message ?? error)});
    return null;
  }
}

async function main() {
  // Never answered: it ends when this page does, and so tells that it crashed.
  fetch("alive").catch(() => {});
  const job = await (await fetch("job")).json();
  const runners = [];
  for (const i of job.files.keys()) runners.push(await start(job, i));
  for (const order of job.orders) {
    for (const i of order) {
      if (!runners[i]) continue;
      await tell({stage: "time", file: i});
      try {
        const {model, runs} = runners[i];
        const ms = await visit(model, runs);
        await tell({stage: "timed", file: i, ms});
      } catch (error) {
        runners[i] = null;
        await tell({stage: "failed", file: i, reason: String(error?.message ?? error)});
      }
    }
  }
  await tell({stage: "done"});
}

main().catch((error) => tell({stage: "broken", reason: String(error?.stack ?? error)}));
