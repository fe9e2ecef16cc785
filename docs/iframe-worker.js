// The search of mkdocs-material runs in a worker, and a browser starts none on a page that it opened from the disk.
// There, the worker's script runs in a hidden frame. The name is what the theme looks for, and its own
// answer to this, https://github.com/squidfunk/iframe-worker, would be fetched from a server.
if (location.protocol == "file:")
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe"), script = document.createElement("script")
      frame.hidden = true
      document.body.append(frame)
      this.frame = frame
      const inner = frame.contentWindow
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.ready = new Promise(resolve => { script.onload = resolve })
      script.src = new URL(url, location)
      inner.document.body.append(script)
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
