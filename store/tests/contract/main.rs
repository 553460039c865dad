//! One suite, every engine: what [`gantry_store::Store`] promises, as scenarios. The functions in [`cases`] know no
//! engine; the modules at the end of this file run each on each. etcd is a real cluster of three members, with TLS, client
//! certificates and a password; where it isn't installed its tests say so and pass, except with `CI=true`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails, and says how it went")]

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod etcd_only;
mod model;

macro_rules! contract {
    ($($module:ident::$name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::cases::$module::$name(crate::common::Engine::embedded()).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(engine) = crate::common::Engine::etcd().await {
                    crate::cases::$module::$name(engine).await;
                }
            })*
        }
    };
}

contract! {
    write::an_empty_store_has_a_revision,
    write::values_come_back_with_their_revisions,
    write::preconditions_are_judged,
    write::the_first_failed_precondition_is_reported,
    write::a_transaction_is_all_or_nothing,
    write::nobody_sees_half_a_transaction,
    write::deleting_what_is_not_there_changes_nothing,
    write::impossible_requests_are_refused,
    write::concurrent_writers_get_one_order,
    write::values_of_any_bytes_and_a_megabyte_are_kept,
    read::pages_are_in_key_order_and_say_if_there_is_more,
    read::a_snapshot_does_not_move,
    read::every_past_revision_can_be_listed,
    read::large_values_make_short_pages,
    watch::changes_arrive_with_what_was_before,
    watch::a_deletion_carries_the_last_value,
    watch::history_is_replayed,
    watch::only_the_prefix_is_watched,
    watch::a_watch_resumes_where_another_stopped,
    watch::a_list_and_its_watch_join_without_gap,
    watch::a_watcher_that_sleeps_blocks_nobody_and_misses_nothing,
    watch::progress_is_told,
    life::compacted_history_is_refused,
    life::a_sleeping_watcher_is_told_when_history_is_gone,
    life::a_reopened_store_goes_on,
    life::a_closed_store_says_so,
    life::status_tells_size_and_revisions,
}
