// The call that makes a picture again, in four languages. The key is never written out.

import { BASE } from "./api.js";

export const LANGUAGES = { python: "Python", typescript: "TypeScript", curl: "curl", grpcurl: "grpcurl" };

const PICTURE = "data:image/jpeg;base64,...";

// `call`: { endpoint, input, member, grpcAddress }.
export function render(language, call) {
  const input = { ...call.input };
  if (input.image_url?.startsWith("data:")) input.image_url = PICTURE;
  return { python, typescript, curl, grpcurl }[language](call, input);
}

function python({ endpoint, grpcAddress }, input) {
  const lines = Object.entries(input).map(([name, value]) => `    ${name}=${argument(name, value)},`);
  const note = input.image_url ? "from pathlib import Path\n\n" : "";
  return `${note}import flashbulb  # FLASHBULB_HOST=${grpcAddress} FLASHBULB_KEY=id:secret

result = flashbulb.subscribe(
    "${endpoint}",
${lines.join("\n")}
)
result.images[0].save("picture.jpeg")
print(result.seed, result.timings)
`;
}

function argument(name, value) {
  if (name === "image_url") return 'Path("input.jpeg")';
  if (name === "image_size" && typeof value === "object") return `(${value.width}, ${value.height})`;
  if (typeof value === "boolean") return value ? "True" : "False";
  return JSON.stringify(value);
}

function typescript({ endpoint }, input) {
  return `import { fal } from "flashbulb";

fal.config({ url: ${JSON.stringify(BASE.href.replace(/\/$/, ""))}, credentials: process.env.FLASHBULB_KEY });

const result = await fal.subscribe("fal-ai/${endpoint}", {
  input: ${JSON.stringify(input, null, 2).replaceAll("\n", "\n  ")},
  logs: true,
});
console.log(result.data.images[0].url, result.requestId);
`;
}

function curl({ endpoint }, input) {
  return `curl ${new URL(`run/fal-ai/${endpoint}`, BASE)} \\
  -H "authorization: Key $FLASHBULB_KEY" -H "content-type: application/json" \\
  -d ${quoted(JSON.stringify(input))}
`;
}

function grpcurl({ member, grpcAddress }, input) {
  const message = { ...input };
  if (typeof message.image_size === "object") message.image_size = { dimensions: message.image_size };
  else if (message.image_size) message.image_size = { preset: `IMAGE_SIZE_PRESET_${message.image_size.toUpperCase()}` };
  if (message.image_url) message.image_url = { uri: message.image_url };
  return `grpcurl -plaintext -H "authorization: Key $FLASHBULB_KEY" \\
  -d ${quoted(JSON.stringify({ input: { [member]: message } }))} \\
  ${grpcAddress} flashbulb.v1.GenerationService/Generate
`;
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
