//! The order in which unit attentions are told.

use super::*;
use Attention::*;

fn check(established: &[Attention], told: &[Attention]) {
    let mut attentions = Attentions::default();
    established.iter().for_each(|attention| attentions.establish(*attention));
    let mut all = Vec::new();
    while let Some(attention) = attentions.take() {
        all.push(attention);
    }
    assert_eq!(all, told, "{established:?}");
    assert!(attentions.is_empty());
}

#[test]
fn resets_come_first_and_make_the_rest_obsolete() {
    check(&[ModeParametersChanged, CapacityChanged], &[ModeParametersChanged, CapacityChanged]);
    check(&[CapacityChanged, CapacityChanged], &[CapacityChanged]);
    check(&[CapacityChanged, Reset], &[Reset]);
    check(&[Reset, CapacityChanged], &[Reset, CapacityChanged]);
    check(&[PowerOn, Reset], &[PowerOn]);
    check(&[NexusLoss, Reset], &[Reset]);
    check(&[Reset, NexusLoss], &[Reset, NexusLoss]);
    check(&[PowerOn, ReservationsReleased, CommandsCleared], &[PowerOn, ReservationsReleased, CommandsCleared]);
}
