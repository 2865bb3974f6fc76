// The page works without this. It refreshes the page, unless that would disturb somebody, and copies text.
(() => {
	"use strict";
	const seconds = Number(document.body.dataset.refresh);
	const pause = document.getElementById("pause");
	let paused = false;

	// Once it has been read, the answer to an action need not stay in the address.
	const here = new URL(location.href);
	if (here.searchParams.has("did")) {
		for (const name of ["did", "n", "left", "name"]) here.searchParams.delete(name);
		history.replaceState(null, "", here);
	}

	// execCommand, because browsers have navigator.clipboard only where a page comes over TLS.
	const copy = (button) => {
		const range = document.createRange();
		range.selectNodeContents(document.getElementById(button.dataset.copy));
		const selection = getSelection();
		selection.removeAllRanges();
		selection.addRange(range);
		button.textContent = document.execCommand("copy") ? "Copied" : "Select it and copy it yourself";
		selection.removeAllRanges();
	};
	const showCopyButtons = () => {
		for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;
	};
	showCopyButtons();
	document.addEventListener("click", (event) => {
		const button = event.target.closest("button[data-copy]");
		if (button) copy(button);
	});

	if (!seconds) return;
	pause.hidden = false;
	pause.addEventListener("click", () => {
		paused = !paused;
		pause.setAttribute("aria-pressed", String(paused));
		pause.textContent = paused ? "Refresh again" : "Stop refreshing";
	});

	const isBusy = () => {
		const active = document.activeElement;
		const changed = [...document.querySelectorAll("input")].some((i) => i.value !== i.defaultValue);
		return paused || document.hidden || !getSelection().isCollapsed || changed ||
			Boolean(document.querySelector("details[open]")) ||
			Boolean(active && active.matches("input, select, textarea, pre"));
	};

	const replace = (id, from) => {
		const old = document.getElementById(id);
		const fresh = from.getElementById(id);
		if (old && fresh) old.replaceChildren(...fresh.childNodes);
	};

	const refresh = async () => {
		if (isBusy()) return;
		try {
			const answer = await fetch(location.href, { redirect: "error" });
			if (!answer.ok) throw new Error(answer.status);
			const page = new DOMParser().parseFromString(await answer.text(), "text/html");
			if (isBusy()) return;
			const scrolls = [...document.querySelectorAll(".scroll")].map((e) => e.scrollLeft);
			const focused = document.activeElement && document.activeElement.getAttribute("href");
			for (const id of ["nav", "made", "main"]) replace(id, page);
			document.querySelectorAll(".scroll").forEach((e, i) => { e.scrollLeft = scrolls[i] || 0; });
			if (focused) {
				const again = [...document.links].find((a) => a.getAttribute("href") === focused);
				if (again) again.focus({ preventScroll: true });
			}
			showCopyButtons();
		} catch (error) {
			document.getElementById("made").textContent = "not refreshed: the server does not answer";
		}
	};
	const loop = async () => {
		await refresh();
		setTimeout(loop, seconds * 1000);
	};
	setTimeout(loop, seconds * 1000);
})();
