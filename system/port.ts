import { createServer } from "node:net";

/** Whether a program of this machine listens on a port of 127.0.0.1. */
export function isPortTaken(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
      // An ordinary user may not listen below 1024, but Docker may.
      .once("error", ({ code }: NodeJS.ErrnoException) => {
        resolve(code === "EADDRINUSE");
      })
      .listen(port, "127.0.0.1", () => {
        server.close(() => {
          resolve(false);
        });
      });
  });
}
