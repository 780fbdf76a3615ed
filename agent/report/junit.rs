//! Tests as JUnit's XML, which CI systems show: a suite for each policy.

use std::fmt::Write;

/// One test, and why it fails, where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCase {
    pub suite: String,
    pub name: String,
    pub failure: Option<String>,
}

/// The whole document. Tests of one suite stand together.
pub fn of(cases: &[TestCase]) -> String {
    let failures = |cases: &[TestCase]| cases.iter().filter(|case| case.failure.is_some()).count();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(out, "<testsuites tests=\"{}\" failures=\"{}\">", cases.len(), failures(cases));
    for suite in cases.chunk_by(|one, next| one.suite == next.suite) {
        let name = escaped(&suite[0].suite);
        let _ =
            writeln!(out, "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{}\">", suite.len(), failures(suite));
        for TestCase { name: test, failure, .. } in suite {
            let test = escaped(test);
            let _ = match failure {
                None => writeln!(out, "    <testcase classname=\"{name}\" name=\"{test}\"/>"),
                Some(why) => writeln!(
                    out,
                    "    <testcase classname=\"{name}\" name=\"{test}\"><failure message=\"{}\"/></testcase>",
                    escaped(why)
                ),
            };
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// XML 1.0 has no control characters but tab and line feed, not even escaped.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_stands_for_each_policy_and_a_failure_says_why() {
        let case = |suite: &str, name: &str, failure: Option<&str>| TestCase {
            suite: suite.into(),
            name: name.into(),
            failure: failure.map(Into::into),
        };
        let cases = [
            case("leak", "a \"pool\" <idles>", None),
            case("leak", "never", Some("expected breach_at never, found 2m & more\u{7}")),
            case("other", "quiet", None),
        ];
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="1">
  <testsuite name="leak" tests="2" failures="1">
    <testcase classname="leak" name="a &quot;pool&quot; &lt;idles&gt;"/>
    <testcase classname="leak" name="never"><failure message="expected breach_at never, found 2m &amp; moreU"/></testcase>
  </testsuite>
  <testsuite name="other" tests="1" failures="0">
    <testcase classname="other" name="quiet"/>
  </testsuite>
</testsuites>
"#
        .replace("moreU", "more\u{fffd}");
        assert_eq!(of(&cases), expected);
        assert!(of(&[]).contains("tests=\"0\""));
    }
}
