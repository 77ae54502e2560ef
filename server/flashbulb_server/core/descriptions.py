"""What each field of an input, or of an item in it, means, in a sentence; its limits and its default stand in the catalog."""

from __future__ import annotations

from collections.abc import Mapping

FIELDS: Mapping[str, str] = {
    "model_name": "Model to run, one of those that are installed for the endpoint, or a name that one of them stands in for. Left out, the server chooses.",
    "prompt": "What to draw.",
    "negative_prompt": "What to keep out of the picture. Without effect where the model takes its guidance as an embedding, as LCM models do.",
    "image_size": "Size of the picture: a named one, or its width and height in pixels; a side that is left out is 512.",
    "num_inference_steps": "Denoising steps.",
    "seed": "Seed of the first picture; picture i is drawn with seed + i. Left out, it is drawn at random, and told in the answer.",
    "guidance_scale": "How closely to follow the prompt.",
    "img_guidance_scale": "How closely to follow the pictures.",
    "sync_mode": "Whether the answer holds the pictures themselves, as data URIs, where they are not too large; else it holds links.",
    "num_images": "Pictures to draw.",
    "enable_safety_checker": "Whether to check the pictures; a flagged one comes back black.",
    "safety_checker_version": "Which checker to use.",
    "expand_prompt": "Whether to extend the prompt before drawing. Refused where no prompt expansion is installed.",
    "format": "File format of the pictures.",
    "output_format": "File format of the pictures.",
    "guidance_rescale": "Rescale factor of the guidance. Without effect where the model takes its guidance as an embedding.",
    "request_id": "A label of the caller's own, echoed in the answer. It is not the id of a request in the queue.",
    "image_url": "The picture to start from: an http or https URL, a data URI, or the address of an uploaded file.",
    "mask_url": "Where to draw: white is drawn anew, black stays. An http or https URL, a data URI, or the address of an uploaded file.",
    "input_image_urls": "Pictures that the prompt speaks of, each an http or https URL, a data URI, or the address of an uploaded file.",
    "strength": "How far to go from the picture that was given; 1 leaves nothing of it.",
    "preserve_aspect_ratio": "Whether the answer has the shape of the picture that was given.",
    "crop_output": "Whether to cut the answer to the size that was asked for.",
    "loras": "Adapters to draw with.",
    "embeddings": "Textual inversions to draw with.",
    "path": "Address of the weights, or the name of installed ones.",
    "scale": "How strongly to apply it.",
    "force": "Whether to apply it although it was made for another model. Without effect on FLUX.",
    "tokens": "The words that stand for it in a prompt.",
    "acceleration": "How much to trade of the picture for speed.",
}
