// What scrolls sideways can be reached by the keyboard, and what does not is no stop on its way.
const reach = () => {
  for (const block of document.querySelectorAll(
    "pre, pre > code, .md-typeset__scrollwrap, .jp-OutputArea-output, math[display=block]"
  ))
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0
    else block.removeAttribute("tabindex")
}
new ResizeObserver(reach).observe(document.body) // tells its size at once, and when it changes
