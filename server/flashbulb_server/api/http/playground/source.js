// The picture to start from: a file that is chosen, dropped or pasted, or the webcam. Pictures are made small before they are sent.

const LONGEST = 768; // pixels of a side; more only makes the upload slower
const QUALITY = 0.85;

export class Source {
  // `changed()` after every new picture; `failed(text)`.
  constructor({ image, video, changed, failed }) {
    this.image = image;
    this.video = video;
    this.changed = changed;
    this.failed = failed;
    this.url = "";
    this.stream = null;
  }

  get live() {
    return this.stream !== null;
  }

  get given() {
    return this.live || this.url !== "";
  }

  async take(file) {
    try {
      const bitmap = await createImageBitmap(file);
      this.stopWebcam();
      this.url = shrunk(bitmap, bitmap.width, bitmap.height);
      bitmap.close();
    } catch {
      this.failed(`${file.name || "What was dropped"} is no picture that this browser can read.`);
      return;
    }
    this.image.src = this.url;
    this.image.hidden = false;
    this.changed();
  }

  async startWebcam() {
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 }, audio: false });
    } catch (error) {
      this.failed(`The webcam cannot be used: ${error.message}`);
      return;
    }
    this.image.hidden = true;
    this.video.srcObject = this.stream;
    this.video.hidden = false;
    await this.video.play();
    this.changed();
  }

  stopWebcam() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
    this.video.hidden = true;
  }

  clear() {
    this.stopWebcam();
    this.url = "";
    this.image.hidden = true;
    this.image.removeAttribute("src");
    this.changed();
  }

  // The picture as a data URI: the file, or what the webcam sees now.
  snapshot() {
    if (this.live && this.video.videoWidth) this.url = shrunk(this.video, this.video.videoWidth, this.video.videoHeight);
    return this.url;
  }
}

function shrunk(drawable, width, height) {
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // behind transparent parts, which JPEG does not have
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(drawable, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", QUALITY);
}
