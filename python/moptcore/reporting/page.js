"use strict";
const font = {
  family: 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif',
  size: 13,
  color: "#334155",
};
const charts = JSON.parse(document.getElementById("charts").textContent);
// All places exist before the first chart is drawn, so that each finds its final width.
const places = charts.map((chart) => {
  const figure = document.createElement("figure");
  const heading = document.createElement("h3");
  const place = document.createElement("div");
  heading.textContent = chart.title;
  figure.append(heading, place);
  document.getElementById(chart.group).append(figure);
  return place;
});
charts.forEach((chart, i) => {
  const bars = chart.group === "bars";
  const layout = {
    font,
    margin: { l: 56, r: 16, t: bars ? 6 : 26, b: bars ? 28 : 46 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    legend: { orientation: "h", x: 1, xanchor: "right", y: -0.14, yanchor: "top" },
    ...chart.layout,
  };
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.newPlot(places[i], chart.data, layout, config);
});
document.documentElement.dataset.charts = "drawn";
