/** The style of a report: light or dark as its reader's screen is, and on paper. */
export const STYLE = `
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--faint:#59616b;--line:#d3d8de;--blue:#1f5fbf;--red:#b8431a}
@media(prefers-color-scheme:dark){:root{--paper:#15171a;--ink:#e4e6e9;--faint:#a4acb6;--line:#3b4149;--blue:#82b1ff;--red:#ff9b68}}
*{box-sizing:border-box}
body{max-width:58rem;margin:0 auto;padding:1.5rem 1rem 3rem;font:1rem/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .5rem}h2{font-size:1.25rem;margin:0 0 .6rem}h3{font-size:1rem;margin:1.4rem 0 .4rem}
section{margin-top:2rem;padding-top:1.2rem;border-top:1px solid var(--line)}
p,ul,ol,dl{margin:.5rem 0}ul{padding-inline-start:1.4rem}ol{padding-inline-start:2rem}li{margin:.25rem 0}
a{color:var(--blue)}nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
.note,caption,dt,thead th{color:var(--faint)}
.facts{display:grid;gap:.3rem 1rem}.facts div{display:grid;grid-template-columns:7rem 1fr}dd{margin:0}
.key{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem}
.key div{padding:.7rem .9rem;border:1px solid var(--line);border-radius:.4rem}.key dt{font-size:.875rem}
.key dd:not(.note){font-size:1.5rem;line-height:1.2;white-space:nowrap}.key .note{font-size:.8125rem}
table{border-collapse:collapse;margin:1rem 0;font-size:.9375rem}table{min-width:min(20rem,100%)}caption{text-align:start;padding-bottom:.3rem}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:end;vertical-align:top;font-variant-numeric:tabular-nums;white-space:nowrap}
th{font-weight:400;text-align:end}th:first-child{text-align:start;padding-inline-start:0;min-width:7rem;max-width:22rem;white-space:normal}
.wide{overflow-x:auto}
.matrix{font-size:.875rem;min-width:0}.matrix td,.matrix th{text-align:center;padding:.2rem .35rem}.matrix th:first-child{text-align:start;min-width:9rem;max-width:14rem;vertical-align:middle}
.matrix tbody bdi{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;overflow:hidden}.matrix thead th:first-child{vertical-align:bottom}.matrix .turned{vertical-align:bottom;writing-mode:vertical-rl;white-space:nowrap}
.turned span{display:block;max-height:11rem;overflow:hidden;text-overflow:ellipsis}
.matrix td{border:1px solid var(--line);min-width:2.2rem}.matrix .none{color:var(--faint)}
.right{background:color-mix(in srgb,var(--blue) calc(var(--share)*45%),var(--paper))}
.wrong{background:color-mix(in srgb,var(--red) calc(10% + var(--share)*45%),var(--paper))}
.pairs>li{margin-top:.8rem}.pairs p{margin:0}blockquote{margin:0;padding-inline-start:.7rem;border-inline-start:3px solid var(--line);white-space:pre-wrap}
.pairs ul{list-style:none;padding:0}
.plot table{justify-self:start}.plot{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:0 2rem;align-items:start}
figure{margin:1rem 0 0}.plot svg{display:block;width:100%;max-width:32rem;height:auto}
svg text{font-size:12px;fill:var(--ink)}svg .tick{fill:var(--faint)}.grid{stroke:var(--line);stroke-width:1}
.line,.interval{fill:none;stroke-width:1.5}.measured .line,.measured .interval{stroke:var(--blue)}.measured circle{fill:var(--blue);fill-opacity:.75}
.expected .line,.expected .interval{stroke:var(--red)}.expected .line{stroke-dasharray:5 4}.expected circle{fill:var(--paper);stroke:var(--red);stroke-width:2}
.reference .line{stroke:var(--faint);stroke-dasharray:3 4;stroke-width:1.5}
code{font-size:.9em}summary{cursor:pointer;color:var(--blue)}
@media print{:root{--paper:#fff;--ink:#000;--faint:#444;--line:#bbb;--blue:#1f5fbf;--red:#b8431a}nav{display:none}body{max-width:none;padding:0;font-size:10pt}
.wide{overflow:visible}.matrix{font-size:7pt}h2,h3{break-after:avoid}tr,figure,.key div,.pairs>li{break-inside:avoid}details::details-content{display:block;content-visibility:visible}*{print-color-adjust:exact}}
`;
