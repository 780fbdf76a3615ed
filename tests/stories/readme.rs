//! The commands of README.md are ones that the program takes.

use std::process::Command;

#[test]
fn every_command_of_the_readme_is_one_of_the_programs() {
    let readme = include_str!("../../README.md");
    let commands = readme.lines().filter_map(|line| line.strip_prefix("unwait "));
    // `status | history`, `scan [--watch]    # what it does`
    let said = commands.map(|line| line.split_once(" #").map_or(line, |(command, _)| command).replace(['[', ']'], ""));
    let mut tried = 0;
    for command in said.flat_map(|line| line.split('|').map(|one| one.trim().to_owned()).collect::<Vec<_>>()) {
        let words = command.split_whitespace().map(|word| word.trim_matches('"'));
        // What stands before `--help` is read first: another verb or switch would be an error.
        let help = Command::new(env!("CARGO_BIN_EXE_unwait")).args(words).arg("--help").output().unwrap();
        assert!(help.status.success(), "unwait {command}: {help:?}");
        tried += 1;
    }
    assert!(tried > 10, "the README's commands are not where they were: {tried}");
}
