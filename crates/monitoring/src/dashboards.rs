//! Dashboards for Grafana: what is on them is said here and in one file for each; how Grafana writes it down is decided in this file alone.

mod engine;
mod gateway;
mod gpu_nodes;
mod scaling;
mod service;

use serde_json::{Value, json};

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;
/// Height of a panel in rows of the grid.
const HEIGHT: u32 = 8;
/// Height of a panel with one number.
const LOW: u32 = 4;
/// The data source that a person chooses at the top.
const SOURCE: &str = "${datasource}";

/// A dashboard.
pub struct Dashboard {
    /// File and identity, which links are made of.
    pub name: &'static str,
    title: &'static str,
    description: &'static str,
    variables: Vec<Variable>,
    rows: Vec<Row>,
}

/// What a person chooses at the top: values of a label.
struct Variable {
    name: &'static str,
    label: &'static str,
    /// `label_values` of this selector and label.
    of: String,
    value: &'static str,
}

struct Row {
    title: &'static str,
    panels: Vec<Panel>,
}

struct Panel {
    title: &'static str,
    /// What it says, and what is good or bad about it.
    description: &'static str,
    unit: &'static str,
    shape: Shape,
    /// Columns that it takes.
    width: u32,
    /// Expressions with the names of their series.
    queries: Vec<(String, &'static str)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Lines,
    /// Parts of a whole.
    Stacked,
    /// The latest number.
    Number,
    /// Which word held when.
    Timeline,
}

/// All of them.
pub fn all() -> Vec<Dashboard> {
    vec![
        service::dashboard(),
        engine::dashboard(),
        gateway::dashboard(),
        scaling::dashboard(),
        gpu_nodes::dashboard(),
    ]
}

fn panel(
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    queries: Vec<(String, &'static str)>,
) -> Panel {
    Panel { title, description, unit, shape: Shape::Lines, width: 8, queries }
}

impl Panel {
    fn shaped(self, shape: Shape) -> Panel {
        Panel { shape, ..self }
    }

    fn wide(self, width: u32) -> Panel {
        Panel { width, ..self }
    }

    fn height(&self) -> u32 {
        if self.shape == Shape::Number { LOW } else { HEIGHT }
    }

    fn json(&self, id: u32, x: u32, y: u32) -> Value {
        let Panel { title, description, unit, shape, width, queries } = self;
        let source = json!({"type": "prometheus", "uid": SOURCE});
        let targets: Vec<Value> = queries
            .iter()
            .zip('A'..)
            .map(|((expr, legend), letter)| {
                json!({
                    "refId": letter.to_string(), "datasource": source, "expr": expr, "legendFormat": legend,
                    "instant": *shape == Shape::Number, "range": *shape != Shape::Number,
                })
            })
            .collect();
        let kind = match shape {
            Shape::Lines | Shape::Stacked => "timeseries",
            Shape::Number => "stat",
            Shape::Timeline => "state-timeline",
        };
        let custom = match shape {
            Shape::Lines => json!({"lineWidth": 1, "fillOpacity": 0, "showPoints": "never"}),
            Shape::Stacked => json!({
                "lineWidth": 1, "fillOpacity": 30, "showPoints": "never", "stacking": {"mode": "normal", "group": "A"},
            }),
            Shape::Number => json!({}),
            Shape::Timeline => json!({"lineWidth": 0, "fillOpacity": 80}),
        };
        let defaults = match shape {
            Shape::Lines | Shape::Stacked => json!({"unit": unit, "min": 0, "custom": custom}),
            Shape::Number | Shape::Timeline => json!({"unit": unit, "custom": custom}),
        };
        let options = match shape {
            Shape::Lines | Shape::Stacked => json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Shape::Number => json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "values": false}, "colorMode": "value", "graphMode": "none",
            }),
            Shape::Timeline => json!({"mergeValues": true, "showValue": "never", "rowHeight": 0.9}),
        };
        json!({
            "id": id, "type": kind, "title": title, "description": description, "datasource": source,
            "gridPos": {"x": x, "y": y, "w": width, "h": self.height()},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": options, "targets": targets,
        })
    }
}

impl Variable {
    fn json(&self) -> Value {
        json!({
            "type": "query", "name": self.name, "label": self.label, "datasource": {"type": "prometheus", "uid": SOURCE},
            "query": {"query": self.query(), "refId": "variable"},
            "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
        })
    }

    fn query(&self) -> String {
        format!("label_values({}, {})", self.of, self.value)
    }
}

impl Dashboard {
    /// As Grafana imports it.
    pub fn json(&self) -> Value {
        let Dashboard { name, title, description, variables, rows } = self;
        let source = json!({
            "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1,
            "hide": 0, "multi": false, "includeAll": false,
        });
        let mut list = vec![source];
        list.extend(variables.iter().map(Variable::json));
        json!({
            "uid": format!("wharf-{name}"), "title": format!("Wharf / {title}"), "description": description,
            "tags": ["wharf"], "schemaVersion": 39, "editable": true, "graphTooltip": 1, "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"}, "timezone": "browser",
            "links": [{
                "type": "dashboards", "title": "Wharf", "tags": ["wharf"], "asDropdown": true, "keepTime": true,
                "includeVars": false, "targetBlank": false,
            }],
            "templating": {"list": list},
            "annotations": {"list": []},
            "panels": placed(rows),
        })
    }

    /// As a file.
    pub fn file(&self) -> String {
        format!("{:#}\n", self.json())
    }

    /// Every expression, with the panel that shows it.
    pub fn expressions(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let panels = self.rows.iter().flat_map(|row| &row.panels);
        panels.flat_map(|panel| panel.queries.iter().map(|(expr, _)| (panel.title, expr.as_str())))
    }

    /// Selectors and labels whose values a person chooses among.
    pub fn choices(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.variables.iter().map(|variable| (variable.of.as_str(), variable.value))
    }
}

/// Rows under each other, panels of a row beside each other as far as there is room.
fn placed(rows: &[Row]) -> Vec<Value> {
    let (mut panels, mut id, mut y) = (Vec::new(), 0, 0);
    for Row { title, panels: inside } in rows {
        id += 1;
        panels.push(json!({
            "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }));
        y += 1;
        let (mut x, mut tallest) = (0, 0);
        for panel in inside {
            if x + panel.width > COLUMNS {
                (x, y, tallest) = (0, y + tallest, 0);
            }
            id += 1;
            panels.push(panel.json(id, x, y));
            x += panel.width;
            tallest = tallest.max(panel.height());
        }
        y += tallest;
    }
    panels
}

/// Quantiles of a histogram, over these labels and by them.
fn quantiles(histogram: &str, of: &str, by: &str) -> Vec<(String, &'static str)> {
    let quantile = |q: &str| {
        let by = if by.is_empty() { String::new() } else { format!(", {by}") };
        format!(
            "histogram_quantile({q}, sum by (le{by}) (rate({histogram}_bucket{{{of}}}[$__rate_interval])))"
        )
    };
    let (half, most) = match by {
        "" => ("p50", "p95"),
        "service" => ("p50 {{service}}", "p95 {{service}}"),
        _ => ("p50 {{wharf_dev_service}}", "p95 {{wharf_dev_service}}"),
    };
    vec![(quantile("0.5"), half), (quantile("0.95"), most)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_panel_lies_on_another_or_beside_the_grid() {
        for dashboard in all() {
            let (mut cells, mut ids) = (BTreeSet::new(), BTreeSet::new());
            let json = dashboard.json();
            for panel in json["panels"].as_array().unwrap() {
                let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
                assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
                assert!(ids.insert(panel["id"].as_u64()), "{}", panel["title"]);
                for x in at("x")..at("x") + at("w") {
                    for y in at("y")..at("y") + at("h") {
                        assert!(cells.insert((x, y)), "{} of {}", panel["title"], dashboard.name);
                    }
                }
            }
        }
    }

    #[test]
    fn every_panel_says_what_it_shows_and_every_dashboard_has_a_name_of_its_own() {
        let mut names = BTreeSet::new();
        for dashboard in all() {
            assert!(names.insert(dashboard.name));
            let mut titles = BTreeSet::new();
            for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
                assert!(titles.insert(panel.title), "{} is there twice", panel.title);
                assert!(panel.description.ends_with('.') && !panel.queries.is_empty(), "{}", panel.title);
            }
        }
    }
}
