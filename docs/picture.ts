import { text } from "node:stream/consumers";

/**
 * Renders what a terminal shows as SVG: standard input to standard output. README's picture is made of a real run:
 *
 *     npm run picture
 */
const fontSize = 14;
const lineHeight = 20;
const columns = 100;
const margin = 20;

const escapes: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };

function render(lines: readonly string[]): string {
  const [width, height] = [columns * fontSize * 0.6 + 2 * margin, lines.length * lineHeight + 2 * margin];
  const rows = lines.map((line, index) => {
    const color = line.startsWith("$") ? "#8ab4f8" : /\bReady\b/.test(line) ? "#7ee787" : "#c9d1d9";
    const shown = (line.length > columns ? `${line.slice(0, columns - 1)}…` : line).replace(
      /[&<>]/g,
      (character) => escapes[character] ?? "",
    );
    return `  <text x="${margin}" y="${margin + (index + 0.75) * lineHeight}" fill="${color}">${shown}</text>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="${fontSize}" xml:space="preserve">`,
    `  <rect width="${width}" height="${height}" rx="8" fill="#0d1117"/>`,
    ...rows,
    "</svg>",
    "",
  ].join("\n");
}

void text(process.stdin).then((printed) => {
  process.stdout.write(render(["$ npx platform rehearse local", ...printed.trimEnd().split("\n")]));
});
