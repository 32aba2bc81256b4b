/** The structure of an answer's plain text: paragraphs, lists, line breaks and `[n]` references. Pure, no DOM. */

const BULLET = /^\s*[-*•]\s+(.*)$/;
const NUMBER = /^\s*(\d{1,3})[.)]\s+(.*)$/;
const INDENTED = /^\s+\S/;

/**
 * @typedef {{text: string} | {cite: number}} Piece
 * @typedef {{kind: "paragraph", lines: Piece[][]}} Paragraph
 * @typedef {{kind: "list", ordered: boolean, start: number, items: Piece[][]}} List
 *
 * @param {string} text
 * @param {number} sources how many there are; `[n]` beyond them stays text
 * @returns {(Paragraph | List)[]}
 */
export function parseAnswer(text, sources) {
  const blocks = [];
  let block = null;
  const open = (next) => {
    blocks.push(next);
    block = next;
  };
  for (const line of text.split(/\r\n?|\n/)) {
    const bullet = BULLET.exec(line);
    const number = NUMBER.exec(line);
    if (line.trim() === "") {
      block = null;
    } else if (bullet || number) {
      const ordered = number !== null;
      if (block?.kind !== "list" || block.ordered !== ordered) {
        open({ kind: "list", ordered, start: ordered ? Number(number[1]) : 1, items: [] });
      }
      block.items.push(pieces(ordered ? number[2] : bullet[1], sources));
    } else if (block?.kind === "list" && INDENTED.test(line)) {
      block.items.at(-1).push(...pieces(` ${line.trim()}`, sources));
    } else {
      if (block?.kind !== "paragraph") open({ kind: "paragraph", lines: [] });
      block.lines.push(pieces(line.trim(), sources));
    }
  }
  return blocks;
}

/** @returns {Piece[]} */
function pieces(line, sources) {
  const found = [];
  let end = 0;
  for (const match of line.matchAll(/\[(\d{1,2})\]/g)) {
    const cite = Number(match[1]);
    if (cite < 1 || cite > sources) continue;
    if (match.index > end) found.push({ text: line.slice(end, match.index) });
    found.push({ cite });
    end = match.index + match[0].length;
  }
  if (end < line.length) found.push({ text: line.slice(end) });
  return found;
}
