// A browser starts no worker from a page that was opened from a disk, and the site's search is one. Here its script
// runs in a hidden frame of the page instead: what it posts comes back as messages of this Worker, and the other way
// round. Pages that a server sends keep the browser's own workers.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      this.inside = this.frame.contentWindow;
      this.inside.postMessage = (data) => {
        const message = new MessageEvent("message", { data });
        this.dispatchEvent(message);
        if (this.onmessage) { this.onmessage(message); }
      };
      this.inside.importScripts = (...scripts) =>
        scripts.reduce((before, script) => before.then(() => this.run(script)), Promise.resolve());
      this.ready = this.run(address);
    }
    run(address) { // a promise that the script has run
      const place = this.inside.document;
      return new Promise((resolve, reject) => {
        const script = place.createElement("script");
        script.src = new URL(address, document.baseURI);
        script.onload = resolve;
        script.onerror = () => {
          const failure = new ErrorEvent("error", { message: `${address} cannot be read` });
          this.dispatchEvent(failure);
          if (this.onerror) { this.onerror(failure); }
          reject(new Error(failure.message));
        };
        place.body.append(script);
      });
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })), () => {});
    }
    terminate() { this.frame.remove(); }
  };
}
