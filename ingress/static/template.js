/** Copies of the `<template>`s of the page, with their parts by name. */

/**
 * @param {string} id of a `<template>` with one root element
 * @returns {{root: HTMLElement, part: (name: string) => HTMLElement}} `part`: the element with that `data-part`
 */
export function copyOf(id) {
  const root = document.getElementById(id).content.firstElementChild.cloneNode(true);
  const parts = new Map();
  for (const element of [root, ...root.querySelectorAll("[data-part]")]) parts.set(element.dataset.part, element);
  return { root, part: (name) => parts.get(name) };
}
