// A queue of frames that a test reads in order. Every wait has a bound.
import { strict as assert } from "node:assert";

const FRAME_MS_MAX = 8_000;
const RFC3339_MS = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

export class Frames {
  constructor() {
    this.queue = [];
    this.waiting = [];
  }

  push(line) {
    const frame = JSON.parse(line);
    const waiter = this.waiting.shift();
    if (waiter) waiter(frame);
    else this.queue.push(frame);
  }

  /** The very next frame. Every frame must have a valid timestamp. */
  async next() {
    const frame = this.queue.shift() ?? (await this.wait());
    assert.match(frame.timestamp, RFC3339_MS, `timestamp of ${JSON.stringify(frame)}`);
    return frame;
  }

  /** The next frame of a type. Frames before it are dropped. */
  async until(type) {
    for (;;) {
      const frame = await this.next();
      if (frame.type === type) return frame;
    }
  }

  wait() {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting = this.waiting.filter((waiter) => waiter !== done);
        reject(new Error(`no frame within ${FRAME_MS_MAX} ms`));
      }, FRAME_MS_MAX);
      const done = (frame) => {
        clearTimeout(timer);
        resolve(frame);
      };
      this.waiting.push(done);
    });
  }
}
