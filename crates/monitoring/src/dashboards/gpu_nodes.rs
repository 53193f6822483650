//! GPUs: what they do, for whom, and how they are.

use wharf_telemetry::metrics::Metric;
use wharf_telemetry::metrics::dcgm::{
    CORRECTABLE_ROWS, FB_FREE, FB_RESERVED, FB_USED, GPU_TEMP, GPU_UTIL, MEM_COPY_UTIL, MEMORY_TEMP,
    PCIE_REPLAY, POWER_MGMT_LIMIT, POWER_USAGE, ROW_REMAP_FAILURE, ROW_REMAP_PENDING, SM_CLOCK, TOTAL_ENERGY,
    UNCORRECTABLE_ROWS,
};
use wharf_telemetry::metrics::node::{ALLOCATIONS, DEVICES, LABEL_WRITES, READY, REGISTRATIONS, TUNED, XIDS};
use wharf_telemetry::metrics::serving::GPU_INFO;

use super::{Dashboard, Row, Shape, Variable, panel};

const OF: &str = r#"node=~"$node""#;

pub(super) fn dashboard() -> Dashboard {
    let variable = Variable { name: "node", label: "Node", of: DEVICES.name.to_owned(), value: "node" };
    // A shared GPU has a line for each pod that holds it.
    let gpu = |metric: &Metric| format!("max by (node, gpu) ({metric}{{{OF}}})");
    let grown = |metric: &Metric, by: &str| format!("sum by ({by}) (increase({metric}{{{OF}}}[1h]))");
    let name = "{{node}} {{gpu}}";
    Dashboard {
        name: "gpu-nodes",
        title: "GPU nodes",
        description: "What GPUs do, for whom, and how they are. Names are dcgm-exporter's; the labels are those of the chart's monitor.",
        variables: vec![variable],
        rows: vec![
            Row {
                title: "Health",
                panels: vec![
                    panel("Devices", "Devices by whether pods get them.", "short", vec![(format!("sum by (resource, state) ({DEVICES}{{{OF}}})"), "{{resource}} {{state}}")]),
                    panel("XIDs", "Errors that drivers told in the last hour, by class: program (its own mistake), passing, reset.", "short", vec![(grown(&XIDS, "node, xid, class"), "{{node}} XID {{xid}} {{class}}")]),
                    panel("Parts of the agent", "1 while a part does what it should.", "short", vec![(format!("min by (node, part) ({READY}{{{OF}}})"), "{{node}} {{part}}")]),
                    panel("Replaced rows of memory", "Rows that were replaced for errors; those that could not be corrected are the worse ones.", "short", vec![
                        (gpu(&UNCORRECTABLE_ROWS), "uncorrectable {{node}} {{gpu}}"),
                        (gpu(&CORRECTABLE_ROWS), "correctable {{node}} {{gpu}}"),
                    ]),
                    panel("Rows that wait or failed", "1 where rows are replaced at the next reset, or could not be.", "short", vec![
                        (gpu(&ROW_REMAP_PENDING), "pending {{node}} {{gpu}}"),
                        (gpu(&ROW_REMAP_FAILURE), "failed {{node}} {{gpu}}"),
                    ]),
                    panel("PCIe sent again", "Replays in the last hour: many mean a bad contact.", "short", vec![(format!("max by (node, gpu) (increase({PCIE_REPLAY}{{{OF}}}[1h]))"), name)]),
                ],
            },
            Row {
                title: "Work",
                panels: vec![
                    panel("Busy", "Share of time that something was computed, however little.", "percent", vec![(gpu(&GPU_UTIL), name)]),
                    panel("Memory busy", "Share of time that memory was read or written.", "percent", vec![(gpu(&MEM_COPY_UTIL), name)]),
                    panel("Memory in use", "Share of memory that programs use.", "percentunit", vec![(
                        format!("{0} / ({0} + {1} + {2})", gpu(&FB_USED), gpu(&FB_FREE), gpu(&FB_RESERVED)),
                        name,
                    )]),
                    panel("Memory by pod", "Of GPUs that pods hold.", "mbytes", vec![(
                        format!(r#"sum by (exported_namespace, exported_pod) ({FB_USED}{{{OF},exported_pod!=""}})"#),
                        "{{exported_namespace}}/{{exported_pod}}",
                    )]),
                    panel("Held by nobody", "GPUs without a pod, by node.", "short", vec![(
                        format!(r#"count by (node) (group by (node, gpu) ({FB_USED}{{{OF},exported_pod=""}}))"#),
                        "{{node}}",
                    )]),
                    panel("Allocations", "Times that kubelet gave devices to pods in the last hour.", "short", vec![(grown(&ALLOCATIONS, "resource, result"), "{{resource}} {{result}}")]),
                ],
            },
            Row {
                title: "Power and heat",
                panels: vec![
                    panel("Power", "Watts that are drawn.", "watt", vec![(gpu(&POWER_USAGE), name)]),
                    panel("Power by service", "Watts that the GPUs of its pods draw, where agents tell of models (exporter.serving). A GPU that several pods share counts for each.", "watt", vec![(
                        format!("sum by (exported_namespace, service, model_name) ({POWER_USAGE}{{{OF}}} * on (node, UUID, exported_namespace, exported_pod, exported_container) group_left (service, model_name) {GPU_INFO}{{{OF}}})"),
                        "{{exported_namespace}}/{{service}} {{model_name}}",
                    )]),
                    panel("Power of the limit", "Share of the power that may be drawn; at 1 clocks go down.", "percentunit", vec![(format!("{} / {}", gpu(&POWER_USAGE), gpu(&POWER_MGMT_LIMIT)), name)]),
                    panel("Energy", "Watts over the time since the driver was loaded, from the GPUs' own counters.", "watt", vec![(format!("sum by (node) (max by (node, gpu) (rate({TOTAL_ENERGY}{{{OF}}}[$__rate_interval]))) / 1000"), "{{node}}")]).shaped(Shape::Stacked),
                    panel("Temperature", "Of the GPU and of its memory.", "celsius", vec![(gpu(&GPU_TEMP), name), (gpu(&MEMORY_TEMP), "memory {{node}} {{gpu}}")]),
                    panel("Clock", "Of the multiprocessors, in MHz.", "short", vec![(gpu(&SM_CLOCK), name)]),
                    panel("Tuning", "Settings that the agent changed or restored in the last hour.", "short", vec![(grown(&TUNED, "node, setting, result"), "{{node}} {{setting}} {{result}}")]),
                ],
            },
            Row {
                title: "Agent",
                panels: vec![
                    panel("Registrations", "With kubelet in the last hour: many mean that kubelet restarts.", "short", vec![(grown(&REGISTRATIONS, "node, result"), "{{node}} {{result}}")]),
                    panel("Writes to nodes", "Labels and taints in the last hour.", "short", vec![(grown(&LABEL_WRITES, "node, result"), "{{node}} {{result}}")]),
                ],
            },
        ],
    }
}
