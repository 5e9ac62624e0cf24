//! Every scenario in virtual time. `UPDATE_SCENARIOS=1` writes the outcomes that came into the files instead.

#[test]
fn every_scenario_holds_in_virtual_time() {
    let scenarios = sim::load(&[]).expect("scenarios are readable");
    assert!(!scenarios.is_empty());
    let verdicts = sim::play_virtually(&scenarios);
    if std::env::var_os("UPDATE_SCENARIOS").is_some() {
        sim::bless(&scenarios, &verdicts).expect("the folder can be written");
        return;
    }
    let failures: Vec<&String> =
        verdicts.iter().filter_map(|verdict| verdict.failure.as_ref()).collect();
    let text: String = failures.iter().map(|failure| format!("{failure}\n")).collect();
    assert!(failures.is_empty(), "{} of {}:\n{text}", failures.len(), verdicts.len());
}
