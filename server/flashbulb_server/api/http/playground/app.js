// The page: reads the controls, asks the session for pictures, and shows what comes. The parts are in modules of their own.

import { ApiError, call, key } from "./api.js";
import { LANGUAGES, render } from "./code.js";
import { Jobs } from "./jobs.js";
import { Live } from "./live.js";
import { Shelf } from "./shelf.js";
import { Source } from "./source.js";

const TEXT = "fast-lcm-diffusion";
const FROM_PICTURE = "fast-lcm-diffusion/image-to-image";
const PAUSE = 900; // ms without an edit after which a picture goes into the history
const SQUARES = [128, 256, 512, 768, 1024];

const $ = (id) => document.getElementById(id);
let catalog = null; // { endpoints by id, sizes by name, grpcAddress } of the server
let shown = null; // { url, endpoint, input, result } of the picture on the stage
let pausing = 0;

const live = new Live({
  state: say,
  picture: takePicture,
  problem: complain,
  unauthorized: (text) => askForKey(text),
});
const source = new Source({ image: $("source-image"), video: $("webcam-view"), changed: sourceChanged, failed: complain });
const shelf = new Shelf($("history"), { chosen: bringBack, changed: (count) => ($("history-empty").hidden = count > 0) });
const jobs = new Jobs($("queue"), {
  shown: (job, result) => {
    clearTimeout(pausing);
    show({ url: result.images[0].url, endpoint: job.endpoint, input: job.input, result }, "from the queue");
  },
  changed: (count) => ($("queue-empty").hidden = count > 0),
});

// --- the input -------------------------------------------------------------------------------------------------------------------------

function endpoint() {
  return source.given && catalog.endpoints.has(FROM_PICTURE) ? FROM_PICTURE : TEXT;
}

function size() {
  const value = $("size").value;
  if (value === "custom") return { width: Number($("width").value), height: Number($("height").value) };
  const side = Number(value);
  return side ? { width: side, height: side } : value;
}

// Width and height of a size, which may be a name of the server's.
function dimensions(value) {
  return catalog.sizes[value] ?? [value.width, value.height];
}

function input() {
  const made = {
    prompt: $("prompt").value.trim(),
    image_size: size(),
    num_inference_steps: Number($("steps").value),
    guidance_scale: Number($("guidance").value),
    seed: Number($("seed").value),
  };
  if ($("negative").value.trim()) made.negative_prompt = $("negative").value.trim();
  if (catalog.endpoints.get(TEXT).models.length > 1) made.model_name = $("model").value;
  if (model()?.needs_checker && !model().safety_checker_versions.length) made.enable_safety_checker = false;
  if (endpoint() === FROM_PICTURE) Object.assign(made, { image_url: source.snapshot(), strength: Number($("strength").value) });
  return made;
}

function model() {
  return catalog?.endpoints.get(TEXT)?.models.find((m) => m.name === $("model").value);
}

function edited() {
  for (const name of ["steps", "guidance", "strength"]) $(`${name}-value`).value = $(name).value;
  $("custom-size").hidden = $("size").value !== "custom";
  if (!catalog) return;
  complain("");
  clearTimeout(pausing);
  const made = input();
  const [width, height] = dimensions(made.image_size);
  $("frame").style.aspectRatio = `${width || 1} / ${height || 1}`;
  if (!made.prompt) return;
  $("frame").setAttribute("aria-busy", "true");
  live.draw(endpoint(), made);
}

function roll() {
  $("seed").value = Math.floor(Math.random() * 2 ** 32);
  edited();
}

// --- what comes back -------------------------------------------------------------------------------------------------------------------

function takePicture(result, { endpoint, input, round, superseded }) {
  const facts = [`${Math.round(round)} ms round trip`];
  if (input.model_name && result.model_name !== input.model_name) facts.push(`drawn by ${result.model_name}, as a stand-in`);
  if (result.timings?.inference) facts.push(`${Math.round(result.timings.inference * 1000)} ms drawing`);
  if (superseded) facts.push(`${superseded} newer edits skipped ahead`);
  const { image_url: _, ...made } = input;
  const entry = { url: result.images[0].url, endpoint, input: made, result };
  show(entry, facts.join(" · "));
  clearTimeout(pausing);
  pausing = setTimeout(() => shelf.add(entry), PAUSE);
  if (source.live) requestAnimationFrame(edited);
}

function show(entry, facts) {
  shown = entry;
  const { width, height } = entry.result.images[0];
  const picture = $("picture");
  picture.src = entry.url;
  picture.alt = entry.result.prompt || entry.input.prompt;
  picture.hidden = false;
  $("empty").hidden = true;
  $("frame").setAttribute("aria-busy", String(!live.idle));
  $("facts").textContent = [`seed ${entry.result.seed}`, width && `${width} × ${height}`, facts].filter(Boolean).join(" · ");
  if (entry.result.has_nsfw_concepts?.[0]) complain("The safety checker found this picture unsafe; it is shown as black.");
  $("download").disabled = false;
}

function bringBack(entry) {
  $("prompt").value = entry.input.prompt;
  $("negative").value = entry.input.negative_prompt ?? "";
  $("steps").value = entry.input.num_inference_steps;
  $("guidance").value = entry.input.guidance_scale;
  $("seed").value = entry.result.seed;
  setSize(entry.input.image_size);
  edited();
  $("prompt").focus();
}

function say(state, text) {
  $("status").dataset.state = state;
  $("status-text").textContent = text;
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function download() {
  const extension = shown.result.images[0].content_type === "image/png" ? "png" : "jpeg";
  const link = Object.assign(document.createElement("a"), { href: shown.url, download: `flashbulb-${shown.result.seed}.${extension}` });
  link.click();
}

async function enqueue() {
  if (!catalog || !$("prompt").value.trim()) return $("prompt").focus();
  complain("");
  $("enqueue").disabled = true;
  try {
    await jobs.submit(endpoint(), input());
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) askForKey(error.message);
    else complain(error.message);
  } finally {
    $("enqueue").disabled = false;
  }
}

// --- the picture to start from -----------------------------------------------------------------------------------------------------------

function sourceChanged() {
  $("strength-field").hidden = !source.given;
  $("clear-source").hidden = !source.given;
  $("drop-hint").hidden = source.given;
  $("webcam").setAttribute("aria-pressed", String(source.live));
  edited();
}

function takeFile(files) {
  const file = [...(files ?? [])].find((f) => f.type.startsWith("image/")) ?? files?.[0];
  if (file) source.take(file);
}

// --- key and code ----------------------------------------------------------------------------------------------------------------------

function askForKey(problem = "") {
  $("key-problem").textContent = problem;
  $("key-problem").hidden = !problem;
  say("lost", "A key is needed");
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

function showCode() {
  if (!catalog) return;
  const entry = catalog.endpoints.get(endpoint());
  const about = { endpoint: endpoint(), input: input(), member: entry.input_field, grpcAddress: catalog.grpcAddress };
  $("code-tabs").replaceChildren(
    ...Object.entries(LANGUAGES).map(([language, name]) => {
      const tab = Object.assign(document.createElement("button"), { type: "button", textContent: name, role: "tab" });
      tab.onclick = () => choose(language);
      tab.id = `tab-${language}`;
      return tab;
    }),
  );
  const choose = (language) => {
    for (const tab of $("code-tabs").children) {
      const chosen = tab.id === `tab-${language}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    $("code").textContent = render(language, about);
    $("code-copied").textContent = "";
  };
  $("code-tabs").onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const tabs = [...$("code-tabs").children];
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  };
  choose("python");
  $("code-dialog").showModal();
}

// --- start -----------------------------------------------------------------------------------------------------------------------------

// Chooses a size: as one of the options, or as a custom one.
function setSize(value) {
  const [width, height] = dimensions(value);
  const choice = width === height ? String(width) : value;
  const offered = [...$("size").options].some((option) => option.value === choice);
  $("size").value = offered ? choice : "custom";
  if (!offered) Object.assign($("width"), { value: width }), ($("height").value = height);
}

// Offers what the model can draw. What was chosen stays.
function fillSizes() {
  const { max_image_pixels: most, native_size, resamples } = model();
  const before = $("size").value && size();
  const sides = SQUARES.filter((side) => side * side <= most);
  const options = sides.map((side) => new Option(`${side} × ${side}`, side));
  for (const [name, [width, height]] of Object.entries(catalog.sizes)) {
    if (width !== height && width * height <= most) options.push(new Option(`${width} × ${height}`, name));
  }
  $("size").replaceChildren(...options, new Option("Custom", "custom"));
  const native = resamples ? 512 : native_size;
  const first = sides.includes(native) ? native : sides.at(-1);
  setSize(before || { width: first, height: first });
}

// Says for which models that are not here another one draws.
function noteStandIns(models) {
  const able = models.find((m) => m.stands_in_for.length);
  $("stand-in").hidden = !able;
  if (!able) return;
  const names = able.stands_in_for.join(" and ");
  $("stand-in").textContent = `${able.name} also answers for ${names}, which are not installed here, as a stand-in. Results say which model drew.`;
}

async function start() {
  say("connecting", "Connecting");
  let answer;
  try {
    answer = await call("GET", "playground/catalog.json");
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return askForKey(key.read() ? error.message : "");
    say("lost", "No answer: trying again");
    setTimeout(start, 1500);
    return;
  }
  if (!answer.endpoints.some((e) => e.endpoint === TEXT)) {
    say("lost", "No model is installed yet: waiting");
    setTimeout(start, 1500);
    return;
  }
  catalog = {
    endpoints: new Map(answer.endpoints.map((e) => [e.endpoint, e])),
    sizes: answer.image_sizes,
    grpcAddress: answer.grpc_address,
  };
  const { models, default_model } = catalog.endpoints.get(TEXT);
  $("model").replaceChildren(...models.map((m) => new Option(m.name, m.name)));
  $("model").value = default_model;
  $("model-field").hidden = models.length < 2;
  $("source").hidden = !catalog.endpoints.has(FROM_PICTURE);
  noteStandIns(models);
  fillSizes();
  live.endpoint = endpoint();
  live.restart();
  edited();
}

function wire() {
  $("seed").value = Math.floor(Math.random() * 2 ** 32);
  $("controls").addEventListener("input", (event) => event.target.id !== "file" && edited());
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("model").addEventListener("input", fillSizes); // before the controls hear of it, and draw
  $("roll").onclick = roll;
  $("enqueue").onclick = enqueue;
  $("download").onclick = download;
  $("copy-code").onclick = showCode;
  $("code-close").onclick = () => $("code-dialog").close();
  $("code-copy").onclick = async () => {
    try {
      await navigator.clipboard.writeText($("code").textContent);
      $("code-copied").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren($("code")); // over plain http from another host there is no clipboard
      $("code-copied").textContent = "Selected: copy it with the keyboard.";
    }
  };
  $("file").onchange = () => {
    takeFile($("file").files);
    $("file").value = "";
  };
  $("webcam").onclick = () => (source.live ? source.clear() : source.startWebcam());
  $("clear-source").onclick = () => source.clear();
  $("open-key").onclick = () => askForKey();
  $("key-cancel").onclick = () => $("key-dialog").close();
  $("key-form").onsubmit = () => {
    key.write($("key").value.trim(), $("remember").checked);
    start();
    jobs.unlock();
  };
  $("theme").onclick = () => {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    theme(dark ? "light" : "dark");
  };
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    takeFile(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => event.clipboardData.files.length && takeFile(event.clipboardData.files));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, textarea, select, dialog *");
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") enqueue();
    else if (event.altKey && event.code === "KeyR") roll();
    else if (event.key === "/" && !typing) $("prompt").focus();
    else return;
    event.preventDefault();
  });
  if (matchMedia("(max-width: 56rem)").matches) $("settings").open = false;
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("flashbulb-theme", name);
}

if (localStorage.getItem("flashbulb-theme")) theme(localStorage.getItem("flashbulb-theme"));
wire();
start();
