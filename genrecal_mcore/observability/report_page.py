"""The frame of `report.html`: one template, its style inside, nothing loaded from elsewhere."""

from string import Template

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>$title</title>
<style>
  :root { --ink: #2b2f36; --soft: #5b616b; --line: #e3e6ea; --accent: #2f6690; }
  * { box-sizing: border-box; }
  body { margin: 0; background: #fff; color: var(--ink);
         font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
  main { max-width: 1040px; margin: 0 auto; padding: 48px 24px 80px; }
  h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
  h2 { font-size: 18px; margin: 48px 0 8px; padding-top: 20px; border-top: 1px solid var(--line); }
  .note { color: var(--soft); font-size: 13.5px; margin: 6px 0 14px; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
  th { text-align: right; font-weight: 600; color: var(--soft); border-bottom: 1px solid #c9cdd3; }
  td { text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
  th, td { padding: 7px 10px; vertical-align: bottom; }
  th:first-child, td:first-child { text-align: left; padding-left: 0; }
  td:first-child { font-weight: 600; }
  img { display: block; width: 100%; height: auto; margin: 6px 0 14px; }
  details { border-top: 1px solid var(--line); padding: 8px 0; font-size: 13.5px; }
  summary { cursor: pointer; color: var(--accent); }
  pre { font: 12px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; background: #f7f8f9; padding: 14px 16px;
        border-radius: 6px; overflow-x: auto; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
$evaluation
<h2>Runs</h2>
$overview
<p class="note">Losses are means over the first and the last five steps. Waits are those of the student ranks
for the teacher, as a share of the step time.</p>
$runs
</main>
</body>
</html>
""")
