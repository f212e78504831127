import type { Clock } from "../../system/clock";

/** A clock that a sleep moves on at once. */
export class FakeClock implements Clock {
  time = 0;

  now(): number {
    return this.time;
  }

  sleep(milliseconds: number): Promise<void> {
    this.time += milliseconds;
    return Promise.resolve();
  }
}
