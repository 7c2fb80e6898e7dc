/** Colours and type, for light and dark, for the page and for a drawing by itself. The hues are Okabe and Ito's. */

const light = `
--ink:#1b1f24;--quiet:#57606a;--paper:#fff;--panel:#f6f8fa;--line:#d0d7de;--hole:#eceff2;--accent:#0b5cad;
--data:#0072b2;--compressed:#009e73;--zero:#8ccbee;--kept:#8ccbee;--metadata:#e69f00;--other:#cc79a7;
--leaked:#d55e00;--damaged:#d55e00`;
const dark = `
--ink:#e6edf3;--quiet:#9aa5b1;--paper:#0e1318;--panel:#171d24;--line:#313a44;--hole:#262e37;--accent:#6cb6ff;
--data:#3d9be0;--compressed:#1fbf92;--zero:#a9daf5;--kept:#a9daf5;--metadata:#f0b429;--other:#e09cc4;
--leaked:#ff7b39;--damaged:#ff7b39`;

/** What the drawings need. */
export const drawingStyle = `
:root{color-scheme:light dark;${light}}
@media(prefers-color-scheme:dark){:root{${dark}}}
.strip,.plot{background:var(--hole)}
.back{fill:var(--hole)}
.kind-data{fill:var(--data)}.kind-compressed{fill:var(--compressed)}.kind-zero{fill:var(--zero)}
.kind-kept{fill:var(--kept)}.kind-metadata{fill:var(--metadata)}.kind-other{fill:var(--other)}
.kind-leaked{fill:var(--leaked)}.kind-damaged{fill:var(--damaged)}.kind-unallocated,.kind-free{fill:var(--hole)}
.pieces{fill:var(--quiet)}
.dot-0{fill:var(--data);opacity:.35}.dot-1{fill:var(--data);opacity:.55}.dot-2{fill:var(--data);opacity:.8}
.dot-3{fill:var(--data)}
`;

/** What the page needs besides. */
export const pageStyle = `
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.5rem;margin:.2rem 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.2rem 0 .3rem}
p{margin:.3rem 0 .8rem;color:var(--quiet);max-width:75ch}
a{color:var(--accent)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(7rem,1fr));gap:.6rem;margin:1rem 0;padding:0}
.tiles div{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.5rem .75rem}
.tiles dt{color:var(--quiet);font-size:.8rem}
.tiles dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums}
.tiles .bad dd{color:var(--leaked);font-weight:600}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:.4rem 0;padding:0;list-style:none;font-size:.85rem}
.legend svg{width:.85rem;height:.85rem;vertical-align:-.1rem;margin-right:.35rem;border:1px solid var(--line)}
.legend span{color:var(--quiet)}
figure{margin:.5rem 0 1rem}
figcaption{font-size:.85rem;color:var(--quiet);margin-bottom:.15rem;overflow-wrap:anywhere}
.strip{display:block;width:100%;height:5.5rem;border:1px solid var(--line);border-radius:3px;touch-action:pan-y}
.strip.low{height:2.4rem}
.strip:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.cursor{fill:none;stroke:var(--ink);stroke-width:2;vector-effect:non-scaling-stroke}
.axis{display:flex;justify-content:space-between;font-size:.75rem;color:var(--quiet);font-variant-numeric:tabular-nums}
.bar{display:flex;flex-wrap:wrap;gap:.4rem;align-items:center;min-height:2rem;font-size:.85rem}
.bar output{color:var(--ink);font-variant-numeric:tabular-nums}
button{font:inherit;color:inherit;background:var(--panel);border:1px solid var(--line);border-radius:5px;padding:.1rem .6rem;cursor:pointer}
button:focus-visible,summary:focus-visible,.wide:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.plot{display:block;width:100%;max-width:40rem;cursor:crosshair;aspect-ratio:1;border:1px solid var(--line);border-radius:3px}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;margin:.3rem 0 1rem}
th,td{text-align:right;padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,.text{text-align:left}
td.text{white-space:normal;overflow-wrap:anywhere;min-width:10rem}
thead th{color:var(--quiet);font-weight:500}
summary{cursor:pointer;font-size:.9rem;color:var(--accent)}
.tip{position:fixed;z-index:1;max-width:22rem;padding:.35rem .6rem;background:var(--ink);color:var(--paper);border-radius:5px;font-size:.8rem;line-height:1.4;white-space:pre-line;pointer-events:none;font-variant-numeric:tabular-nums}
.tip[hidden]{display:none}
@media print{.bar button{display:none}}
`;
