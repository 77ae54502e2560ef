// The history: pictures that the user paused on, newest first, with what made them. In memory only.

const MOST = 40;

export class Shelf {
  // `chosen(entry)`: the user wants it back; `changed(count)`.
  constructor(list, { chosen, changed }) {
    this.list = list;
    this.chosen = chosen;
    this.changed = changed;
    this.entries = [];
  }

  // `entry`: { url, endpoint, input, result }.
  add(entry) {
    const newest = this.entries[0];
    if (newest && newest.url === entry.url) return;
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Bring back: ${entry.input.prompt}, seed ${entry.result.seed}`);
    button.title = entry.input.prompt;
    button.append(Object.assign(document.createElement("img"), { src: entry.url, alt: "" }));
    button.onclick = () => this.chosen(entry);
    const item = document.createElement("li");
    item.append(button);
    entry.item = item;
    this.entries.unshift(entry);
    this.list.prepend(item);
    for (const old of this.entries.splice(MOST)) old.item.remove();
    this.changed(this.entries.length);
  }
}
