// gradio's page takes what the browser calls a film, and browsers know few endings, in small letters; and it
// calls a film that the browser cannot play an error, when it can be labelled all the same.
const odd = (files) => [...(files || [])].some(({type}) => !type.startsWith("video/"));
function films(files) {
    const all = new DataTransfer();
    for (const file of files) {
        const name = file.name.replace(/[.][^.]*$/, (end) => end.toLowerCase());
        all.items.add(new File([file], name, {type: "video/x-film"}));
    }
    return all;
}
addEventListener("change", ({target}) => {
    if (target.type === "file" && odd(target.files)) target.files = films(target.files).files;
}, true);
addEventListener("drop", (event) => {
    if (!odd(event.dataTransfer?.files)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    event.target.dispatchEvent(new DragEvent("drop", {
        bubbles: true, cancelable: true, dataTransfer: films(event.dataTransfer.files)}));
}, true);
new MutationObserver(() => document.querySelectorAll("[data-testid=toast-body]").forEach((one) => {
    if (one.innerText.includes("not playable")) one.style.display = "none";
})).observe(document, {childList: true, subtree: true});
