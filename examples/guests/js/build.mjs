// Builds transform.js as a component that imports nothing: node build.mjs OUTPUT

import { componentize } from "@bytecodealliance/componentize-js";
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const beside = (path) => fileURLToPath(new URL(path, import.meta.url));

const { component } = await componentize({
  sourcePath: beside("transform.js"),
  witPath: beside("../../../wit"),
  worldName: "migration",
  // Whatever is left on would import WASI.
  disableFeatures: ["stdio", "random", "clocks", "http", "fetch-event"],
});
await writeFile(process.argv[2] ?? "shop_js.wasm", component);
