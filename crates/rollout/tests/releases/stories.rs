//! What happens in each scenario, told by the events that people see. The last line says how it ended, what runs (ready of all) and what became of
//! requests; all start with 120 that were held until the first version was ready.

use expect_test::{Expect, expect};

use crate::driver::Scenario;
use crate::scenarios::*;

fn check(scenario: &Scenario, expected: &Expect) {
    expected.assert_eq(&scenario.run().trace);
}

#[test]
fn a_good_version_takes_over_and_the_old_one_goes_later() {
    check(
        &good("BlueGreen"),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         31 Verifying: generation 2 has all traffic
         41 Promoted: generation 2 serves: none of 240 requests failed
        Promoted ["green r2 3/3"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn a_canary_takes_its_steps_with_as_many_replicas_as_each_needs() {
    check(
        &good("Canary"),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 10% of traffic
         57 Shifting: generation 2 gets 50% of traffic
         86 Shifting: generation 2 gets 100% of traffic
         89 Verifying: generation 2 has all traffic
         99 Promoted: generation 2 serves: none of 250 requests failed
        Promoted ["green r2 3/3"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn rolling_replaces_one_replica_after_the_other() {
    check(
        &good("Rolling"),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 33% of traffic
         40 Shifting: generation 2 gets 67% of traffic
         52 Shifting: generation 2 gets 100% of traffic
         55 Verifying: generation 2 has all traffic
         65 Promoted: generation 2 serves: none of 253 requests failed
        Promoted ["green r2 3/3"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn recreate_lets_the_old_version_go_first() {
    check(
        &good("Recreate"),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22 Draining: the old version finishes and goes before generation 2 comes
             25 Warming: replicas of generation 2 start
             31 Shifting: generation 2 gets 100% of traffic
             33 Verifying: generation 2 has all traffic
             43 Promoted: generation 2 serves: none of 230 requests failed
            Promoted ["green r2 3/3"] Requests { failed: 0, held: 300, cut: 0 }
        "#]],
    );
}

#[test]
fn failing_answers_take_a_version_back_whatever_the_strategy() {
    check(
        &bad("BlueGreen"),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         30!RollingBack: generation 2 is taken back to 1: 5 of 20 requests failed (25%), more than rollbackOn.errorRate 1%
         35!RolledBack: generation 1 serves: 5 of 20 requests failed (25%), more than rollbackOn.errorRate 1%
        RolledBack ["blue r1 3/3"] Requests { failed: 10, held: 120, cut: 0 }
    "#]],
    );
    check(
        &bad("Canary"),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 10% of traffic
         44!RollingBack: generation 2 is taken back to 1: 5 of 20 requests failed (25%), more than rollbackOn.errorRate 1%
         49!RolledBack: generation 1 serves: 5 of 20 requests failed (25%), more than rollbackOn.errorRate 1%
        RolledBack ["blue r1 3/3"] Requests { failed: 5, held: 120, cut: 0 }
    "#]],
    );
    check(
        &bad("Rolling"),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 33% of traffic
         34!RollingBack: generation 2 is taken back to 1: 5 of 23 requests failed (21.7%), more than rollbackOn.errorRate 1%
         39!RolledBack: generation 1 serves: 5 of 23 requests failed (21.7%), more than rollbackOn.errorRate 1%
        RolledBack ["blue r1 3/3"] Requests { failed: 7, held: 120, cut: 0 }
    "#]],
    );
    check(
        &bad("Recreate"),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22 Draining: the old version finishes and goes before generation 2 comes
             25 Warming: replicas of generation 2 start
             31 Shifting: generation 2 gets 100% of traffic
             33!RollingBack: generation 2 is taken back to 1: 8 of 30 requests failed (26.7%), more than rollbackOn.errorRate 1%
             41!RolledBack: generation 1 serves: 8 of 30 requests failed (26.7%), more than rollbackOn.errorRate 1%
            RolledBack ["blue r1 3/3"] Requests { failed: 10, held: 440, cut: 0 }
        "#]],
    );
}

#[test]
fn a_model_that_cannot_be_had_starts_nothing() {
    check(
        &missing_file(),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22!RolledBack: generation 1 serves: no such file: file:///models/b.gguf
            RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
        "#]],
    );
    check(
        &failed_gate(),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             60!RolledBack: generation 1 serves: the quality gate failed: perplexity +3.1%, over maxPerplexityIncrease 2%
            RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
        "#]],
    );
}

#[test]
fn a_version_that_does_not_start_gets_no_traffic() {
    check(
        &exits(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         37!RollingBack: generation 2 is taken back to 1: exits with code 1; it was started again 3 times
         38!RolledBack: generation 1 serves: exits with code 1; it was started again 3 times
        RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
    check(
        &exits_for_good(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         27!RollingBack: generation 2 is taken back to 1: exits with code 2: unknown field `paralel`
         28!RolledBack: generation 1 serves: exits with code 2: unknown field `paralel`
        RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
    check(
        &never_ready(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
        142!RollingBack: generation 2 is taken back to 1: 0 of 2 replicas ready, after 2 min (rollout.deadline)
        143!RolledBack: generation 1 serves: 0 of 2 replicas ready, after 2 min (rollout.deadline)
        RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
    check(
        &warm_up_fails(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         27!RollingBack: generation 2 is taken back to 1: a warm-up prompt was not answered: status 500: out of memory
         28!RolledBack: generation 1 serves: a warm-up prompt was not answered: status 500: out of memory
        RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn crashes_and_slowness_under_traffic_take_a_version_back() {
    check(
        &crashes_under_traffic(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         31 Verifying: generation 2 has all traffic
         36!RollingBack: generation 2 is taken back to 1: a replica with traffic exits with code 139
         38!RolledBack: generation 1 serves: a replica with traffic exits with code 139
        RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 160, cut: 0 }
    "#]],
    );
    check(
        &slow(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         30!RollingBack: generation 2 is taken back to 1: 95% of first tokens came within 2 s, not 500 ms as rollbackOn.ttftP95 says; the old version's within 98 ms
         35!RolledBack: generation 1 serves: 95% of first tokens came within 2 s, not 500 ms as rollbackOn.ttftP95 says; the old version's within 98 ms
        RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn failures_that_both_versions_have_take_nothing_back() {
    check(
        &shared_failures(),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22 Warming: replicas of generation 2 start
             28 Shifting: generation 2 gets 100% of traffic
             31 Verifying: generation 2 has all traffic
             41 Promoted: generation 2 serves: 24 of 240 requests failed (10%), but 10% of the old version's do too; 95% of first tokens came within 98 ms
            Promoted ["green r2 2/2"] Requests { failed: 252, held: 120, cut: 0 }
        "#]],
    );
}

#[test]
fn a_change_in_the_middle_of_a_release_is_followed() {
    check(
        &superseded(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         40!RollingBack: generation 2 makes room for generation 3, which came before it was promoted
         41 Idle: generation 1 serves
         41 Preparing: generation 3 is prepared after generation 1
         42 Warming: replicas of generation 3 start
         48 Shifting: generation 3 gets 100% of traffic
         51 Verifying: generation 3 has all traffic
         61 Promoted: generation 3 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
        Promoted ["green r3 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
    check(
        &went_back(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 10% of traffic
         40!RollingBack: generation 2 is taken back: generation 3, which serves, is asked for again
         45 Idle: generation 3 serves
        Idle ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn what_gateways_counted_before_or_lost_does_not_matter() {
    check(
        &gateways_restart(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 10% of traffic
         49 Shifting: generation 2 gets 50% of traffic
         76 Shifting: generation 2 gets 100% of traffic
         77 Verifying: generation 2 has all traffic
         87 Promoted: generation 2 serves: none of 220 requests failed
        Promoted ["green r2 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn a_gateway_that_never_follows_delays_a_release_and_does_not_stop_it() {
    check(
        &deaf_gateway(),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22 Warming: replicas of generation 2 start
             28 Shifting: generation 2 gets 100% of traffic
             58 Verifying: generation 2 has all traffic
             68 Promoted: generation 2 serves: none of 400 requests failed; 95% of first tokens came within 98 ms
            Promoted ["green r2 2/2"] Requests { failed: 0, held: 240, cut: 20 }
        "#]],
    );
}

#[test]
fn without_traffic_nothing_speaks_against_a_version() {
    check(
        &no_traffic(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         31 Verifying: generation 2 has all traffic
        151 Promoted: generation 2 serves: after 2 min, only 0 of 20 requests were seen; nothing speaks against it
        Promoted ["green r2 2/2"] Requests { failed: 0, held: 0, cut: 0 }
    "#]],
    );
}

#[test]
fn a_sleeping_service_is_released_with_one_replica_and_sleeps_on() {
    check(
        &asleep(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         31 Verifying: generation 2 has all traffic
         31 Promoted: generation 2 serves: verified without traffic, the service sleeps: a replica answered 4 warm-up prompts
        Promoted ["green r2 0/0"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn a_release_waits_for_room() {
    check(
        &no_room(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
        100 Warming: replicas of generation 2 start
        106 Shifting: generation 2 gets 100% of traffic
        109 Verifying: generation 2 has all traffic
        119 Promoted: generation 2 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
        Promoted ["green r2 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn a_pause_lasts_until_somebody_agrees() {
    check(
        &paused("BlueGreen"),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22 Warming: replicas of generation 2 start
            100 Promote: generation 2 gets all traffic as soon as its replicas are ready for it
            100 Shifting: generation 2 gets 100% of traffic
            103 Verifying: generation 2 has all traffic
            113 Promoted: generation 2 serves: none of 240 requests failed
            Promoted ["green r2 2/2"] Requests { failed: 0, held: 120, cut: 0 }
        "#]],
    );
    check(
        &paused("Rolling"),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22 Warming: replicas of generation 2 start
             28 Shifting: generation 2 gets 50% of traffic
            100 Promote: generation 2 gets all traffic as soon as its replicas are ready for it
            106 Shifting: generation 2 gets 100% of traffic
            109 Verifying: generation 2 has all traffic
            119 Promoted: generation 2 serves: none of 250 requests failed
            Promoted ["green r2 2/2"] Requests { failed: 0, held: 120, cut: 0 }
        "#]],
    );
    check(
        &paused("Recreate"),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
            100 Promote: generation 2 gets all traffic as soon as its replicas are ready for it
            100 Draining: the old version finishes and goes before generation 2 comes
            103 Warming: replicas of generation 2 start
            109 Shifting: generation 2 gets 100% of traffic
            111 Verifying: generation 2 has all traffic
            121 Promoted: generation 2 serves: none of 230 requests failed
            Promoted ["green r2 2/2"] Requests { failed: 0, held: 300, cut: 0 }
        "#]],
    );
}

#[test]
fn a_release_is_aborted() {
    check(
        &aborted(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 10% of traffic
         45 Abort: generation 2 is taken back to 1
         45!RollingBack: generation 2 is taken back to 1: aborted by hand
         50!RolledBack: generation 1 serves: aborted by hand
        RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn a_release_is_undone_while_the_old_version_is_kept() {
    check(
        &undone(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         31 Verifying: generation 2 has all traffic
         41 Promoted: generation 2 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
         70 Undo: generation 2 was undone by hand; generation 1 takes over again
         70!RollingBack: generation 2 was undone by hand; generation 1 takes over again
         75!RolledBack: generation 1 serves: generation 2 was undone by hand
        RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
    check(
        &undone_too_late(),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22 Warming: replicas of generation 2 start
             28 Shifting: generation 2 gets 100% of traffic
             31 Verifying: generation 2 has all traffic
             41 Promoted: generation 2 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
            150!Undo: the version before is gone: change the service back to what it was
            Promoted ["green r2 2/2"] Requests { failed: 0, held: 120, cut: 0 }
        "#]],
    );
}

#[test]
fn what_was_taken_back_is_tried_again_only_when_somebody_says_so() {
    check(
        &retried(),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22!RolledBack: generation 1 serves: no such file: file:///models/b.gguf
            110 Retry: generation 2 is tried again
            110 Preparing: generation 2 is prepared after generation 1
            110 Warming: replicas of generation 2 start
            116 Shifting: generation 2 gets 100% of traffic
            119 Verifying: generation 2 has all traffic
            129 Promoted: generation 2 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
            Promoted ["green r2 2/2"] Requests { failed: 0, held: 120, cut: 0 }
        "#]],
    );
}

#[test]
fn a_first_version_that_fails_is_tried_until_it_works_or_another_comes() {
    check(
        &first_fails(),
        &expect![[r#"
          1 Preparing: generation 1 is prepared
          2 Warming: replicas of generation 1 start
         17!Failed: exits with code 1; it was started again 3 times
        103 Promoted: generation 1 serves: its replicas are ready and answered 4 warm-up prompts each
        Promoted ["blue r1 2/2"] Requests { failed: 0, held: 2020, cut: 0 }
    "#]],
    );
    check(
        &first_is_superseded(),
        &expect![[r#"
          1 Preparing: generation 1 is prepared
          2 Warming: replicas of generation 1 start
         17!Failed: exits with code 1; it was started again 3 times
        100!RollingBack: generation 1 makes room for generation 2, which came before it was promoted
        101 Idle: nothing serves yet
        101 Preparing: generation 2 is prepared
        102 Warming: replicas of generation 2 start
        108 Promoted: generation 2 serves: its replicas are ready and answered 4 warm-up prompts each
        Promoted ["blue r2 2/2"] Requests { failed: 0, held: 2120, cut: 0 }
    "#]],
    );
}

#[test]
fn the_scaler_goes_on_while_replicas_are_replaced() {
    check(
        &scaled_in_the_middle(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 33% of traffic
         30 Shifting: generation 2 gets 20% of traffic
         40 Shifting: generation 2 gets 40% of traffic
         52 Shifting: generation 3 gets 60% of traffic
         60 Shifting: generation 3 gets 100% of traffic
         63 Verifying: generation 3 has all traffic
         73 Promoted: generation 3 serves: none of 252 requests failed
        Promoted ["green r2 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn a_lost_state_takes_nothing_down() {
    check(
        &state_lost(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         31 Verifying: generation 2 has all traffic
         34 Idle: generation 2 was found serving
        Idle ["green r2 3/3"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn a_change_that_restarts_nothing_is_no_release() {
    check(
        &labels(),
        &expect![[r#"
        Promoted ["blue r1 4/4"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn going_back_to_a_version_that_is_kept_needs_no_start() {
    check(
        &reverted(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 100% of traffic
         31 Verifying: generation 2 has all traffic
         41 Promoted: generation 2 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
         60 Preparing: generation 3 is prepared after generation 2
         62 Warming: replicas of generation 3 start
         62 Shifting: generation 3 gets 100% of traffic
         65 Verifying: generation 3 has all traffic
         75 Promoted: generation 3 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
        Promoted ["blue r1 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn promoting_by_hand_skips_steps_and_then_verification() {
    check(
        &promoted_by_hand(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 10% of traffic
         32 Promote: generation 2 gets all traffic as soon as its replicas are ready for it
         38 Shifting: generation 2 gets 100% of traffic
         41 Verifying: generation 2 has all traffic
         45 Promote: generation 2 serves
         45 Promoted: generation 2 serves: promoted by hand
         50!Promote: nothing is being released
        Promoted ["green r2 2/2"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}

#[test]
fn a_first_version_has_nothing_to_go_back_to() {
    check(
        &aborted_first(),
        &expect![[r#"
          1 Preparing: generation 1 is prepared
          2 Warming: replicas of generation 1 start
         17!Failed: exits with code 1; it was started again 3 times
         50!Abort: this is the first version: there is nothing to go back to
        103 Promoted: generation 1 serves: its replicas are ready and answered 4 warm-up prompts each
        110!Undo: the version before is gone: change the service back to what it was
        Promoted ["blue r1 2/2"] Requests { failed: 0, held: 2020, cut: 0 }
    "#]],
    );
}

#[test]
fn the_old_version_wakes_in_the_middle_of_a_release() {
    check(
        &woken(),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         52 Shifting: generation 2 gets 100% of traffic
         55 Verifying: generation 2 has all traffic
         65 Promoted: generation 2 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
        Promoted ["green r2 2/2"] Requests { failed: 0, held: 220, cut: 0 }
    "#]],
    );
}

#[test]
fn what_is_kept_answers_when_the_promoted_version_falls_over() {
    check(
        &fails_after_promotion(),
        &expect![[r#"
             20 Preparing: generation 2 is prepared after generation 1
             22 Warming: replicas of generation 2 start
             28 Shifting: generation 2 gets 100% of traffic
             31 Verifying: generation 2 has all traffic
             41 Promoted: generation 2 serves: none of 240 requests failed; 95% of first tokens came within 98 ms
             60 Undo: generation 2 was undone by hand; generation 1 takes over again
             60!RollingBack: generation 2 was undone by hand; generation 1 takes over again
             61!RolledBack: generation 1 serves: generation 2 was undone by hand
            RolledBack ["blue r1 2/2"] Requests { failed: 0, held: 160, cut: 0 }
        "#]],
    );
}

#[test]
fn the_deadline_holds_for_the_replicas_of_later_steps_too() {
    check(
        &no_place_for_more(false),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 10% of traffic
         57 Shifting: generation 2 gets 50% of traffic
        200!RollingBack: generation 2 is taken back to 1: 2 of 3 replicas ready, after 2 min (rollout.deadline)
        205!RolledBack: generation 1 serves: 2 of 3 replicas ready, after 2 min (rollout.deadline)
        240!Promote: the release was taken back: change the service, or retry
        RolledBack ["blue r1 3/3"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
    check(
        &no_place_for_more(true),
        &expect![[r#"
         20 Preparing: generation 2 is prepared after generation 1
         22 Warming: replicas of generation 2 start
         28 Shifting: generation 2 gets 10% of traffic
         57 Shifting: generation 2 gets 50% of traffic
        240 Promote: generation 2 gets all traffic as soon as its replicas are ready for it
        380!RollingBack: generation 2 is taken back to 1: 2 of 3 replicas ready, after 2 min (rollout.deadline)
        385!RolledBack: generation 1 serves: 2 of 3 replicas ready, after 2 min (rollout.deadline)
        RolledBack ["blue r1 3/3"] Requests { failed: 0, held: 120, cut: 0 }
    "#]],
    );
}
