// Generated from proto/flashbulb/v1/input.proto by scripts/protoc-gen-inputs.js. Do not edit.
import type { Source } from "../source.js";

/** Versions of the safety checker. */
export type SafetyCheckerVersion = "v1" | "v2";

/** File formats of a generated picture. */
export type ImageFormat = "jpeg" | "png";

/** Named sizes of a picture, width x height in pixels. */
export type ImageSizePreset = "square_hd" | "square" | "portrait_4_3" | "portrait_16_9" | "landscape_4_3" | "landscape_16_9";

/** Exact dimensions of a picture, in pixels. */
export interface ImageDimensions {
  /**
   * Width in pixels, 1 to 14142 inclusive; 0 counts as absent. Default: 512. The product of both sides is also limited,
   * see `Model.max_image_pixels`. Outside of that: INVALID_ARGUMENT.
   */
  width?: number;
  /** Height in pixels, with the same range and default as `width`. */
  height?: number;
}

/** Size of a picture: a named size, or exact dimensions in pixels. */
export type ImageSize = ImageSizePreset | ImageDimensions;

/** An adapter (LoRA) to apply to a model. */
export interface LoraWeight {
  /** URL of the weights, or the name of an installed adapter: one line, 1 to 2048 characters. Required. */
  path: string;
  /** How strongly to apply it; the range is that of the field that holds this message. Default: 1. */
  scale?: number;
  /** Whether to apply it although it was made for another model. Default: false. Without effect on FLUX. */
  force?: boolean;
}

/** A textual inversion to load into a model. */
export interface TextualInversion {
  /** URL of the weights, or the name of installed ones: one line, 1 to 2048 characters. Required. */
  path: string;
  /** The words that stand for it in a prompt, up to 16, of 1 to 128 characters each. Default: `<s0>`, `<s1>`. */
  tokens?: readonly string[];
}

/** Input of `fast-lcm-diffusion`: a picture from a prompt in few steps. */
export interface FastLcmTextToImageInput {
  /**
   * Model to run, one of ModelService.ListModels for this endpoint, or of the names that one of them stands in for. Default: the endpoint's
   * `default_model`. Another name: INVALID_ARGUMENT, with the list of the installed ones. An answer echoes what was asked for, and says
   * beside it which model drew.
   */
  model_name?: string;
  /** What to draw. Required, 1 to 4096 characters. */
  prompt: string;
  /**
   * What to keep out of the picture, up to 4096 characters. Default: empty. Without effect where the model takes its guidance
   * as an embedding, as LCM models do.
   */
  negative_prompt?: string;
  /** Size of the picture. Default: square_hd (1024 x 1024). */
  image_size?: ImageSize;
  /** Denoising steps, 1 to 32 inclusive. Default: 6. */
  num_inference_steps?: number;
  /**
   * Seed of the first picture, 0 to 2^53 - 1 inclusive; picture i uses `seed + i`, which must not exceed that either. Default: drawn
   * at random and echoed in the answer.
   */
  seed?: number;
  /** How closely to follow the prompt, 0 to 20 inclusive. Default: 1.5. */
  guidance_scale?: number;
  /** Whether the answer holds the bytes of the pictures (`Image.content`). Default: true. */
  sync_mode?: boolean;
  /** Pictures to draw, 1 to 8 inclusive. Default: 1. */
  num_images?: number;
  /**
   * Whether to check the pictures; a flagged one comes back black. Default: true. FAILED_PRECONDITION where the model needs a
   * checker and the server has none installed.
   */
  enable_safety_checker?: boolean;
  /** Which checker to use. Default: v1. */
  safety_checker_version?: SafetyCheckerVersion;
  /**
   * Whether to extend the prompt before drawing; the answer's `prompt` is then the extended one. Default: false.
   * INVALID_ARGUMENT where the server has no prompt expansion installed.
   */
  expand_prompt?: boolean;
  /** File format of the pictures. Default: JPEG. */
  format?: ImageFormat;
  /** Rescale factor of the guidance, 0 to 1 inclusive. Default: 0. Without effect where the model takes its guidance as an embedding. */
  guidance_rescale?: number;
  /** A label of the caller's own, up to 128 characters, echoed in the answer. Default: empty. It is not the queue's `request_id`. */
  request_id?: string;
}

/** Input of `fast-lcm-diffusion/image-to-image`: a picture from a prompt and a picture. */
export interface FastLcmImageToImageInput {
  /**
   * Model to run, one of ModelService.ListModels for this endpoint, or of the names that one of them stands in for. Default: the endpoint's
   * `default_model`. Another name: INVALID_ARGUMENT, with the list of the installed ones. An answer echoes what was asked for, and says
   * beside it which model drew.
   */
  model_name?: string;
  /** What to draw. Required, 1 to 4096 characters. */
  prompt: string;
  /**
   * What to keep out of the picture, up to 4096 characters. Default: empty. Without effect where the model takes its guidance
   * as an embedding, as LCM models do.
   */
  negative_prompt?: string;
  /**
   * Size of the answer. Default: square_hd (1024 x 1024). The input picture is resized to cover it, never stretched, and what stands
   * over is cut off at both sides alike; see also `preserve_aspect_ratio`.
   */
  image_size?: ImageSize;
  /**
   * Denoising steps, 1 to 32 inclusive. Default: 6. They are spread over the noise that `strength` leaves; where it leaves fewer levels
   * than that (the lowest `50 * strength`, rounded down, of the 50 that a model was distilled on), so many steps are taken, at least one.
   */
  num_inference_steps?: number;
  /**
   * Seed of the first picture, 0 to 2^53 - 1 inclusive; picture i uses `seed + i`, which must not exceed that either. Default: drawn
   * at random and echoed in the answer.
   */
  seed?: number;
  /** How closely to follow the prompt, 0 to 20 inclusive. Default: 1.5. */
  guidance_scale?: number;
  /** Whether the answer holds the bytes of the pictures (`Image.content`). Default: true. */
  sync_mode?: boolean;
  /** Pictures to draw, 1 to 8 inclusive. Default: 1. */
  num_images?: number;
  /**
   * Whether to check the pictures; a flagged one comes back black. Default: true. FAILED_PRECONDITION where the model needs a
   * checker and the server has none installed.
   */
  enable_safety_checker?: boolean;
  /** Which checker to use. Default: v1. */
  safety_checker_version?: SafetyCheckerVersion;
  /**
   * Whether to extend the prompt before drawing; the answer's `prompt` is then the extended one. Default: false.
   * INVALID_ARGUMENT where the server has no prompt expansion installed.
   */
  expand_prompt?: boolean;
  /** File format of the pictures. Default: JPEG. */
  format?: ImageFormat;
  /** Rescale factor of the guidance, 0 to 1 inclusive. Default: 0. Without effect where the model takes its guidance as an embedding. */
  guidance_rescale?: number;
  /** A label of the caller's own, up to 128 characters, echoed in the answer. Default: empty. It is not the queue's `request_id`. */
  request_id?: string;
  /**
   * The picture to start from, at most 50 megapixels. Required. One that cannot be fetched or read: INVALID_ARGUMENT with the reason
   * BAD_IMAGE, which in the queue ends the request. An answer echoes it if it was a URI, but no bytes and no `data:` URI; in the
   * queue those become files, whose URI is echoed.
   */
  image_url: Source;
  /** How much of the picture to replace, 0.05 to 1 inclusive: the noise it starts from is that at this part of the schedule. Default: 0.95. */
  strength?: number;
  /**
   * Whether the answer keeps the input's aspect ratio: its sides are then multiples of 32 pixels (at least 32), and as large as the
   * area of `image_size` allows. Default: false.
   */
  preserve_aspect_ratio?: boolean;
  /** Whether to crop the answer to exactly `image_size`. Default: false. Makes a difference with `preserve_aspect_ratio` only. */
  crop_output?: boolean;
}

/** Input of `fast-lcm-diffusion/inpainting`: a part of a picture drawn anew. */
export interface FastLcmInpaintingInput {
  /**
   * Model to run, one of ModelService.ListModels for this endpoint, or of the names that one of them stands in for. Default: the endpoint's
   * `default_model`. Another name: INVALID_ARGUMENT, with the list of the installed ones. An answer echoes what was asked for, and says
   * beside it which model drew.
   */
  model_name?: string;
  /** What to draw. Required, 1 to 4096 characters. */
  prompt: string;
  /**
   * What to keep out of the picture, up to 4096 characters. Default: empty. Without effect where the model takes its guidance
   * as an embedding, as LCM models do.
   */
  negative_prompt?: string;
  /**
   * Size of the answer. Default: square_hd (1024 x 1024). The input picture is resized to cover it, never stretched, and what stands
   * over is cut off at both sides alike: give it the picture's own aspect ratio to keep all of it.
   */
  image_size?: ImageSize;
  /**
   * Denoising steps, 1 to 32 inclusive. Default: 6. The last `num_inference_steps * strength` of them are taken, rounded down, but at
   * least one.
   */
  num_inference_steps?: number;
  /**
   * Seed of the first picture, 0 to 2^53 - 1 inclusive; picture i uses `seed + i`, which must not exceed that either. Default: drawn
   * at random and echoed in the answer.
   */
  seed?: number;
  /** How closely to follow the prompt, 0 to 20 inclusive. Default: 1.5. */
  guidance_scale?: number;
  /** Whether the answer holds the bytes of the pictures (`Image.content`). Default: true. */
  sync_mode?: boolean;
  /** Pictures to draw, 1 to 8 inclusive. Default: 1. */
  num_images?: number;
  /**
   * Whether to check the pictures; a flagged one comes back black. Default: true. FAILED_PRECONDITION where the model needs a
   * checker and the server has none installed.
   */
  enable_safety_checker?: boolean;
  /** Which checker to use. Default: v1. */
  safety_checker_version?: SafetyCheckerVersion;
  /**
   * Whether to extend the prompt before drawing; the answer's `prompt` is then the extended one. Default: false.
   * INVALID_ARGUMENT where the server has no prompt expansion installed.
   */
  expand_prompt?: boolean;
  /** File format of the pictures. Default: JPEG. */
  format?: ImageFormat;
  /** Rescale factor of the guidance, 0 to 1 inclusive. Default: 0. Without effect where the model takes its guidance as an embedding. */
  guidance_rescale?: number;
  /** A label of the caller's own, up to 128 characters, echoed in the answer. Default: empty. It is not the queue's `request_id`. */
  request_id?: string;
  /**
   * The picture to start from, at most 50 megapixels. Required. One that cannot be fetched or read: INVALID_ARGUMENT with the reason
   * BAD_IMAGE, which in the queue ends the request. An answer echoes it if it was a URI, but no bytes and no `data:` URI; in the
   * queue those become files, whose URI is echoed.
   */
  image_url: Source;
  /**
   * Where to draw: white is drawn anew, black is kept; grey is either, from the middle on. Required. One of another size is stretched to
   * that of the picture. What is kept passes through the model's autoencoder, so it may differ a little. Errors and echo: as `image_url`.
   */
  mask_url: Source;
  /** How much noise to draw from, 0.01 to 1 inclusive; 1 forgets what was under the mask. Default: 0.95. */
  strength?: number;
}

/** Input of `stable-diffusion-v15`: a picture from a prompt with Stable Diffusion v1.5. */
export interface StableDiffusionV15Input {
  /** What to draw. Required, 1 to 4096 characters. */
  prompt: string;
  /**
   * What to keep out of the picture, up to 4096 characters. Default: empty. Without effect where the model takes its guidance
   * as an embedding, as LCM models do.
   */
  negative_prompt?: string;
  /** Size of the picture. Default: square (512 x 512). */
  image_size?: ImageSize;
  /** Denoising steps, 1 to 50 inclusive. Default: 25. */
  num_inference_steps?: number;
  /**
   * Seed of the first picture, 0 to 2^53 - 1 inclusive; picture i uses `seed + i`, which must not exceed that either. Default: drawn
   * at random and echoed in the answer.
   */
  seed?: number;
  /** How closely to follow the prompt, 0 to 20 inclusive. Default: 7.5. */
  guidance_scale?: number;
  /** Adapters to apply, up to 16, each with `scale` 0 to 1. Default: none. */
  loras?: readonly LoraWeight[];
  /** Textual inversions to load, up to 16. Default: none. */
  embeddings?: readonly TextualInversion[];
  /** Whether the answer holds the bytes of the pictures (`Image.content`). Default: false. */
  sync_mode?: boolean;
  /** Pictures to draw, 1 to 8 inclusive. Default: 1. */
  num_images?: number;
  /**
   * Whether to check the pictures; a flagged one comes back black. Default: true. FAILED_PRECONDITION where the model needs a
   * checker and the server has none installed.
   */
  enable_safety_checker?: boolean;
  /** Which checker to use. Default: v1. */
  safety_checker_version?: SafetyCheckerVersion;
  /**
   * Whether to extend the prompt before drawing; the answer's `prompt` is then the extended one. Default: false.
   * INVALID_ARGUMENT where the server has no prompt expansion installed.
   */
  expand_prompt?: boolean;
  /** File format of the pictures. Default: JPEG. */
  format?: ImageFormat;
  /** A label of the caller's own, up to 128 characters, echoed in the answer. Default: empty. It is not the queue's `request_id`. */
  request_id?: string;
}

/** Input of `omnigen-v1`: a picture from text and pictures. */
export interface OmnigenV1Input {
  /** What to draw. Required, 1 to 4096 characters. `<img><|image_1|></img>` stands for the first of `input_image_urls`. */
  prompt: string;
  /**
   * The pictures that the prompt names, up to 8, with at most 50 megapixels all together. Default: none. One that cannot be fetched or
   * read: INVALID_ARGUMENT with the reason BAD_IMAGE, which in the queue ends the request. An answer echoes those that were URIs, and
   * leaves a source empty that came as bytes or as a `data:` URI; in the queue those become files, whose URI is echoed.
   */
  input_image_urls?: readonly Source[];
  /** Size of the picture. Default: square_hd (1024 x 1024). */
  image_size?: ImageSize;
  /** Denoising steps, 1 to 50 inclusive. Default: 50. */
  num_inference_steps?: number;
  /**
   * Seed of the first picture, 0 to 2^53 - 1 inclusive; picture i uses `seed + i`, which must not exceed that either. Default: drawn
   * at random and echoed in the answer.
   */
  seed?: number;
  /** How closely to follow the prompt, 0 to 20 inclusive. Default: 3. */
  guidance_scale?: number;
  /** How closely to follow the given pictures, 0 to 20 inclusive. Default: 1.6. */
  img_guidance_scale?: number;
  /** Whether the answer holds the bytes of the pictures (`Image.content`). Default: false. */
  sync_mode?: boolean;
  /** Pictures to draw, 1 to 4 inclusive. Default: 1. */
  num_images?: number;
  /**
   * Whether to check the pictures; a flagged one comes back black. Default: true. FAILED_PRECONDITION where the model needs a
   * checker and the server has none installed.
   */
  enable_safety_checker?: boolean;
  /** File format of the pictures. Default: JPEG. */
  output_format?: ImageFormat;
}

/** Input of `flux-lora`: a picture from a prompt with FLUX.1 [dev] and adapters. */
export interface FluxLoraTextToImageInput {
  /** What to draw. Required, 1 to 4096 characters. */
  prompt: string;
  /** Size of the picture. Default: landscape_4_3 (1024 x 768). */
  image_size?: ImageSize;
  /** Denoising steps, 1 to 50 inclusive. Default: 28. */
  num_inference_steps?: number;
  /**
   * Seed of the first picture, 0 to 2^53 - 1 inclusive; picture i uses `seed + i`, which must not exceed that either. Default: drawn
   * at random and echoed in the answer.
   */
  seed?: number;
  /** How closely to follow the prompt, 0 to 35 inclusive. Default: 3.5. */
  guidance_scale?: number;
  /** Adapters to apply, up to 16, each with `scale` 0 to 4. Default: none. */
  loras?: readonly LoraWeight[];
  /** Whether the answer holds the bytes of the pictures (`Image.content`). Default: false. */
  sync_mode?: boolean;
  /** Pictures to draw, 1 to 4 inclusive. Default: 1. */
  num_images?: number;
  /**
   * Whether to check the pictures; a flagged one comes back black. Default: true. FAILED_PRECONDITION where the model needs a
   * checker and the server has none installed.
   */
  enable_safety_checker?: boolean;
  /** File format of the pictures. Default: JPEG. */
  output_format?: ImageFormat;
  /** `none` or `regular`. Default: `none`. */
  acceleration?: "none" | "regular";
}

/** Input of `flux-lora/image-to-image`: a picture from a prompt and a picture with FLUX.1 [dev]. */
export interface FluxLoraImageToImageInput {
  /** What to draw. Required, 1 to 4096 characters. */
  prompt: string;
  /** Size of the picture. Default: landscape_4_3 (1024 x 768). */
  image_size?: ImageSize;
  /** Denoising steps, 1 to 50 inclusive. Default: 28. */
  num_inference_steps?: number;
  /**
   * Seed of the first picture, 0 to 2^53 - 1 inclusive; picture i uses `seed + i`, which must not exceed that either. Default: drawn
   * at random and echoed in the answer.
   */
  seed?: number;
  /** How closely to follow the prompt, 0 to 35 inclusive. Default: 3.5. */
  guidance_scale?: number;
  /** Adapters to apply, up to 16, each with `scale` 0 to 4. Default: none. */
  loras?: readonly LoraWeight[];
  /** Whether the answer holds the bytes of the pictures (`Image.content`). Default: false. */
  sync_mode?: boolean;
  /** Pictures to draw, 1 to 4 inclusive. Default: 1. */
  num_images?: number;
  /**
   * Whether to check the pictures; a flagged one comes back black. Default: true. FAILED_PRECONDITION where the model needs a
   * checker and the server has none installed.
   */
  enable_safety_checker?: boolean;
  /** File format of the pictures. Default: JPEG. */
  output_format?: ImageFormat;
  /** `none` or `regular`. Default: `none`. */
  acceleration?: "none" | "regular";
  /** The picture to start from. Required. Limits, errors and echo: as in FastLcmImageToImageInput. */
  image_url: Source;
  /** How much of the picture to replace, 0.01 to 1 inclusive. Default: 0.85. */
  strength?: number;
}

/** Input of `flux-lora/inpainting`: a part of a picture drawn anew with FLUX.1 [dev]. */
export interface FluxLoraInpaintingInput {
  /** What to draw. Required, 1 to 4096 characters. */
  prompt: string;
  /** Size of the picture. Default: landscape_4_3 (1024 x 768). */
  image_size?: ImageSize;
  /** Denoising steps, 1 to 50 inclusive. Default: 28. */
  num_inference_steps?: number;
  /**
   * Seed of the first picture, 0 to 2^53 - 1 inclusive; picture i uses `seed + i`, which must not exceed that either. Default: drawn
   * at random and echoed in the answer.
   */
  seed?: number;
  /** How closely to follow the prompt, 0 to 35 inclusive. Default: 3.5. */
  guidance_scale?: number;
  /** Adapters to apply, up to 16, each with `scale` 0 to 4. Default: none. */
  loras?: readonly LoraWeight[];
  /** Whether the answer holds the bytes of the pictures (`Image.content`). Default: false. */
  sync_mode?: boolean;
  /** Pictures to draw, 1 to 4 inclusive. Default: 1. */
  num_images?: number;
  /**
   * Whether to check the pictures; a flagged one comes back black. Default: true. FAILED_PRECONDITION where the model needs a
   * checker and the server has none installed.
   */
  enable_safety_checker?: boolean;
  /** File format of the pictures. Default: JPEG. */
  output_format?: ImageFormat;
  /** `none` or `regular`. Default: `none`. */
  acceleration?: "none" | "regular";
  /** The picture to start from. Required. Limits, errors and echo: as in FastLcmImageToImageInput. */
  image_url: Source;
  /** Where to draw: white is drawn anew, black is kept. Required. Limits, errors and echo: as `image_url`. */
  mask_url: Source;
  /** How much of the picture to replace, 0.01 to 1 inclusive. Default: 0.85. */
  strength?: number;
}

/** The input of every endpoint, by its id. */
export interface Inputs {
  "fast-lcm-diffusion": FastLcmTextToImageInput;
  "fast-lcm-diffusion/image-to-image": FastLcmImageToImageInput;
  "fast-lcm-diffusion/inpainting": FastLcmInpaintingInput;
  "stable-diffusion-v15": StableDiffusionV15Input;
  "omnigen-v1": OmnigenV1Input;
  "flux-lora": FluxLoraTextToImageInput;
  "flux-lora/image-to-image": FluxLoraImageToImageInput;
  "flux-lora/inpainting": FluxLoraInpaintingInput;
}

/** The member of GenerationInput of every endpoint, by its id. */
export const MEMBERS = {
  "fast-lcm-diffusion": "fastLcmTextToImage",
  "fast-lcm-diffusion/image-to-image": "fastLcmImageToImage",
  "fast-lcm-diffusion/inpainting": "fastLcmInpainting",
  "stable-diffusion-v15": "stableDiffusionV15",
  "omnigen-v1": "omnigenV1",
  "flux-lora": "fluxLoraTextToImage",
  "flux-lora/image-to-image": "fluxLoraImageToImage",
  "flux-lora/inpainting": "fluxLoraInpainting",
} as const;
