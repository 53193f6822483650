//! When an error budget burns: by how fast it would be used up, over two windows, so that an alert comes soon and goes soon.
//!
//! The method, windows and factors are those of the SRE workbook, chapter "Alerting on SLOs", for a budget of 30 days: 2% of it in an hour and
//! 5% in six call somebody now, 10% in a day and all of it in three days are for working hours. A shorter window beside each ends the
//! alert when it is over, and few requests call nobody.

use crate::rule::{Alert, Severity};

/// A way to burn: how many times faster than allowed, over which two windows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burn {
    pub(crate) factor: f64,
    pub(crate) long: &'static str,
    pub(crate) short: &'static str,
    pub(crate) severity: Severity,
}

/// All of them, by severity.
pub(crate) const BURNS: [Burn; 4] = [
    Burn { factor: 14.4, long: "1h", short: "5m", severity: Severity::Critical },
    Burn { factor: 6.0, long: "6h", short: "30m", severity: Severity::Critical },
    Burn { factor: 3.0, long: "1d", short: "2h", severity: Severity::Warning },
    Burn { factor: 1.0, long: "3d", short: "6h", severity: Severity::Warning },
];

/// Every window, each once.
pub(crate) const WINDOWS: [&str; 7] = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"];

/// So large a share is an alert whatever the budget: with one of 10%, 14.4 times as much would be more than everything.
const ALMOST_ALL: f64 = 0.9;

/// A promise to users, and how it is counted.
pub(crate) struct Objective<'a> {
    pub(crate) alert: &'static str,
    /// Share of requests (or tokens) that were bad in a window.
    pub(crate) bad: &'a dyn Fn(&str) -> String,
    /// How many there were in a window.
    pub(crate) count: &'a dyn Fn(&str) -> String,
    /// Fewer than these in the longer window say nothing.
    pub(crate) at_least: &'a str,
    /// Labels on which both are counted: `on (service)` or nothing.
    pub(crate) on: &'a str,
    pub(crate) budget: Budget<'a>,
}

/// Share that may be bad.
#[derive(Clone, Copy)]
pub(crate) enum Budget<'a> {
    /// Known now.
    Known(f64),
    /// Put in by whoever renders.
    Later(&'a str),
}

impl Budget<'_> {
    /// The share above which it burns so fast.
    fn times(self, factor: f64) -> String {
        match self {
            Budget::Known(share) if factor * share > ALMOST_ALL => ALMOST_ALL.to_string(),
            Budget::Known(share) => format!("({factor} * {share})"),
            Budget::Later(mark) => format!("({factor} * {mark})"),
        }
    }
}

impl Objective<'_> {
    /// What holds while the budget burns at one of the speeds that are so urgent.
    pub(crate) fn burns(&self, severity: Severity) -> String {
        let Objective { alert: _, bad, count, at_least, on, budget } = self;
        let of = BURNS.into_iter().filter(|burn| burn.severity == severity);
        let ways: Vec<String> = of
            .map(|Burn { factor, long, short, severity: _ }| {
                let limit = budget.times(factor);
                let and = format!("and {on}").trim_end().to_owned();
                format!(
                    "({} > {limit} {and} {} > {limit} {and} {} >= {at_least})",
                    bad(long),
                    bad(short),
                    count(long)
                )
            })
            .collect();
        ways.join(" or ")
    }

    /// The alert of a severity. `expr` is [`Objective::burns`], with whatever else must hold.
    pub(crate) fn alert(
        &self,
        severity: Severity,
        expr: String,
        labels: Vec<(&'static str, String)>,
        summary: String,
        description: &str,
    ) -> Alert {
        let wait = match severity {
            Severity::Critical => "2m",
            Severity::Warning => "15m",
        };
        Alert { name: self.alert, expr, wait, severity, labels, summary, description: description.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_holds_over_both_windows_and_with_enough_requests() {
        let objective = Objective {
            alert: "X",
            bad: &|window| format!("bad{window}"),
            count: &|window| format!("all{window}"),
            at_least: "20",
            on: "",
            budget: Budget::Known(0.01),
        };
        assert_eq!(
            objective.burns(Severity::Critical),
            "(bad1h > (14.4 * 0.01) and bad5m > (14.4 * 0.01) and all1h >= 20) or \
             (bad6h > (6 * 0.01) and bad30m > (6 * 0.01) and all6h >= 20)"
        );
    }

    #[test]
    fn a_large_budget_burns_when_almost_everything_is_bad() {
        assert_eq!(Budget::Known(0.05).times(14.4), "(14.4 * 0.05)");
        assert_eq!(Budget::Known(0.1).times(14.4), "0.9");
        assert_eq!(Budget::Later("@errors@").times(6.0), "(6 * @errors@)");
    }

    #[test]
    fn every_window_of_a_burn_is_in_the_list_of_windows() {
        for Burn { long, short, .. } in BURNS {
            assert!(WINDOWS.contains(&long) && WINDOWS.contains(&short), "{long} {short}");
        }
    }
}
