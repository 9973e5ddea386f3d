// In this order: what comes later wins.
import "./tokens.css";
import "./base.css";
import "./parts/parts.css";
import "./top/top.css";
import "./compare/compare.css";
import "./sliders/sliders.css";
import "uplot/dist/uPlot.min.css";
import "./chart/chart.css";
import "./vectors/vectors.css";
import "./make/make.css";
import "./server/server.css";
