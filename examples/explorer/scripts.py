"""The page's own JavaScript: what Gradio's components do not do."""

# Buttons in the HTML say which controls they set, "name=value;name=value".
SET_CONTROLS = """element.addEventListener('click', (event) => {
    const button = event.target.closest('[data-set]');
    if (button) trigger('click', {given: button.dataset.set});
});"""
# Gradio's own messages on uploads vanish after ten seconds; here they stay until they are closed.
KEEP_MESSAGES = """const told = new WeakSet();
new MutationObserver(() => {
    for (const toast of document.querySelectorAll('.toast-body.error [data-testid=toast-text]')) {
        if (told.has(toast)) continue;
        told.add(toast);
        const text = document.createElement('p');
        text.className = 'error';
        text.textContent = toast.textContent;
        props.value = text.outerHTML + '%CLOSE%';
    }
}).observe(document.body, {childList: true, subtree: true});
"""
CLOSES = "element.addEventListener('click', (event) => { if (event.target.closest('[data-close]')) props.value = ''; });"
# On leaving the box of a number, Gradio moves it into the range of its slider, silently. Here the page says what is wrong.
KEEP_NUMBERS = """document.addEventListener('blur', (event) => {
    const range = event.target.validity;
    if (event.target.type === 'number' && (range.rangeUnderflow || range.rangeOverflow)) event.stopImmediatePropagation();
}, true);"""
CLOSE = '<button type="button" class="offer" data-close>Close</button>'
NOTICE = KEEP_MESSAGES.replace("%CLOSE%", CLOSE) + CLOSES + KEEP_NUMBERS
