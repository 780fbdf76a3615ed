//! Blacks out what looks like a secret in other people's text: command lines, journals, what commands print.
//!
//! Leans to the side of blacking out too much: a lost word costs a look at the host, a kept password costs the
//! password. Ordinary text is kept where nothing in it names a secret. The rules, in the order applied to a line:
//!
//! 1. PEM blocks, to their end;
//! 2. flags of known programs whose value has no telling name (`mysql -pX`, `redis-cli -a X`, `curl -u A:X`);
//! 3. flags with a telling name and the next word (`--token X`), and commands that take a secret as a bare word
//!    (`requirepass X`, `AUTH X`, `IDENTIFIED BY 'X'`);
//! 4. headers, to the end of the line or quote (`Authorization:`, `Cookie:`), and `Bearer X` anywhere;
//! 5. names that tell and their values (`password=X`, `"token": "X"`, `auth('X')`);
//! 6. the password of a URL or of a DSN (`redis://:X@host`, `user:X@tcp(host)`), webhooks whose path is the secret;
//! 7. shapes of well-known tokens (`AKIA…`, `ghp_…`, JWT).
//!
//! Lines stay lines, so that a line's number still tells where it stood.

mod names;
mod pairs;
mod shapes;
mod words;

/// What stands in a secret's place.
pub const BLACKED_OUT: &str = "[redacted]";

/// Free text of any number of lines; line ends are kept as they are.
pub fn text(input: &str) -> String {
    let mut output = String::with_capacity(input.len());
    let mut pem = Pem::Outside;
    for line in input.split_inclusive('\n') {
        let (body, end) = match line.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        match pem.feed(body) {
            Some(replaced) => output.push_str(&replaced),
            None => output.push_str(&one_line(body)),
        }
        output.push_str(end);
    }
    output
}

/// A command line. A secret's value reaches to the end of its argument here, spaces included.
pub fn argv(arguments: &[String]) -> Vec<String> {
    let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let hidden = words::hidden(&borrowed);
    arguments
        .iter()
        .zip(hidden)
        .map(|(argument, hidden)| match hidden {
            words::Hidden::All => BLACKED_OUT.into(),
            words::Hidden::After(kept) => format!("{}{BLACKED_OUT}", &argument[..kept]),
            words::Hidden::Nothing => match pairs::leading_assignment(argument) {
                Some(kept) => format!("{}{BLACKED_OUT}", &argument[..kept]),
                None => text(argument),
            },
        })
        .collect()
}

fn one_line(line: &str) -> String {
    let line = words::in_text(line);
    let line = pairs::in_text(&line);
    shapes::in_text(&line)
}

/// Where we stand in a PEM block. A block that lacks its end stops at the first line that cannot be of it.
enum Pem {
    Outside,
    Inside,
}

impl Pem {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";

    fn feed(&mut self, line: &str) -> Option<String> {
        match self {
            Self::Outside => {
                let begin = line.find(Self::BEGIN)?;
                let before = one_line(&line[..begin]);
                match line[begin..].find(Self::END) {
                    Some(end) => {
                        // All on one line, its line breaks escaped: `-----END X-----` closes it.
                        let end = begin + end + Self::END.len();
                        let close = line[end..].find("-----").map_or(line.len(), |at| end + at + 5);
                        Some(format!("{before}{BLACKED_OUT}{}", one_line(&line[close..])))
                    }
                    None => {
                        *self = Self::Inside;
                        Some(format!("{before}{BLACKED_OUT}"))
                    }
                }
            }
            Self::Inside if line.contains(Self::END) => {
                *self = Self::Outside;
                Some(BLACKED_OUT.into())
            }
            Self::Inside => {
                let last = line.split_whitespace().next_back().unwrap_or("");
                let header = line.contains("Proc-Type:") || line.contains("DEK-Info:");
                if header || last.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)) {
                    return Some(if last.is_empty() { String::new() } else { BLACKED_OUT.into() });
                }
                *self = Self::Outside;
                self.feed(line)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_text_are_blacked_out_and_the_rest_is_kept() {
        for (input, output) in [
            // Names and values.
            ("password=hunter2 user=bob", "password=[redacted] user=bob"),
            ("DB_PASSWORD=hunter2", "DB_PASSWORD=[redacted]"),
            ("dbPassword: hunter2", "dbPassword: [redacted]"),
            ("-Dspring.datasource.password=x9 -Xmx1g", "-Dspring.datasource.password=[redacted] -Xmx1g"),
            (r#"{"token": "abc def", "user": "bob"}"#, r#"{"token": "[redacted]", "user": "bob"}"#),
            (r#"{"api_key":"a\"b","n":1}"#, r#"{"api_key":"[redacted]","n":1}"#),
            (r#"{"pin_token":12345,"n":1}"#, r#"{"pin_token":[redacted],"n":1}"#),
            (r#"msg="{\"secret\":\"s3\",\"n\":1}""#, r#"msg="{\"secret\":\"[redacted]\",\"n\":1}""#),
            ("password = 'two words' x", "password = '[redacted]' x"),
            ("passwd=\"never closed", "passwd=\"[redacted]"),
            ("/api?page=2&access_token=abc", "/api?page=2&access_token=[redacted]"),
            ("key=abcdef12", "key=[redacted]"),
            ("--private-key=abc", "--private-key=[redacted]"),
            ("$redis->auth('hunter2');", "$redis->auth('[redacted]');"),
            ("密码：hunter2", "密码：[redacted]"),
            // Flags.
            (
                "sudo: COMMAND=/usr/bin/gate --token abc --port 80",
                "sudo: COMMAND=/usr/bin/gate --token [redacted] --port 80",
            ),
            ("mysql -h db -phunter2 shop", "mysql -h db -p[redacted] shop"),
            ("/usr/bin/redis-cli -a hunter2 ping", "/usr/bin/redis-cli -a [redacted] ping"),
            ("curl -u bob:hunter2 http://x/", "curl -u [redacted] http://x/"),
            ("requirepass hunter2", "requirepass [redacted]"),
            ("AUTH hunter2", "AUTH [redacted]"),
            ("CREATE USER a IDENTIFIED BY 'x y';", "CREATE USER a IDENTIFIED BY '[redacted]';"),
            // Headers.
            ("> Authorization: Bearer abc.def", "> Authorization: [redacted]"),
            ("-H 'Authorization: Basic Zm9vOmJhcg==' -v", "-H 'Authorization: [redacted]' -v"),
            ("Cookie: a=b; c=d", "Cookie: [redacted]"),
            ("X-Consul-Token: 6f1c", "X-Consul-Token: [redacted]"),
            ("sent bearer a8f3c1", "sent bearer [redacted]"),
            // URLs.
            ("redis://:hunter2@10.0.0.1:6379/0", "redis://:[redacted]@10.0.0.1:6379/0"),
            ("amqp://bob:p@ss@mq:5672/v", "amqp://bob:[redacted]@mq:5672/v"),
            ("redis://:a/b@10.0.0.1/0", "redis://:[redacted]@10.0.0.1/0"),
            ("https://ghx0123456789abcdef@github.com/a", "https://[redacted]@github.com/a"),
            ("bob:hunter2@tcp(db:3306)/shop", "bob:[redacted]@tcp(db:3306)/shop"),
            ("https://hooks.slack.com/services/T0/B0/xyz ok", "https://hooks.slack.com/services/[redacted] ok"),
            // Shapes.
            ("id AKIAIOSFODNN7EXAMPLE seen", "id [redacted] seen"),
            ("(ghp_0123456789abcdefghij0123456789abcdef)", "([redacted])"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl!", "[redacted]!"),
            // PEM.
            (
                "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----\nb\n",
                "a\n[redacted]\n[redacted]\n[redacted]\n[redacted]\nb\n",
            ),
            (r"k '-----BEGIN X-----\nMII\n-----END X-----' after", "k '[redacted]' after"),
            (
                "x[1]: -----BEGIN PRIVATE KEY-----\nx[1]: MIIEabc\nx[1]: done, listening.",
                "x[1]: [redacted]\n[redacted]\nx[1]: done, listening.",
            ),
        ] {
            assert_eq!(text(input), output, "{input}");
            assert_eq!(text(output), output, "a second time: {input}");
        }
    }

    #[test]
    fn ordinary_text_is_kept() {
        for line in [
            "Failed password for root from 10.0.0.1 port 22 ssh2",
            "GET http://10.0.0.1:8500/v1/agent/self 200 12ms",
            "https://host:8080/users@2x.png",
            "git clone ssh://git@host/repo",
            "monkey=3 keys=12 key_count=5 max_tokens=100 token_file=/run/t",
            "--password-file /run/pw --port 80",
            "worker 12: connection to 10.0.0.2:6379 closed by peer",
            "basic authentication is off; bearer token missing",
            "redis-server *:6379",
            "redis_version:7.0.15",
            "php-fpm: pool www",
            "mysql -h db -P 3306",
            "2026-11-22T18:43:29+0000 bj1-03 rpc-order[812]: accepted=96 author: bob",
            "PWD=/srv/app",
            "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "",
            "\n\n",
        ] {
            assert_eq!(text(line), line);
        }
    }

    #[test]
    fn a_command_line_is_blacked_out_by_argument() {
        let cases: [(&[&str], &[&str]); 9] = [
            (&["gate", "--password=two words, and more", "-v"], &["gate", "--password=[redacted]", "-v"]),
            (&["gate", "--token", "-abc", "--port", "80"], &["gate", "--token", "[redacted]", "--port", "80"]),
            (
                &["/bin/mysql", "-uroot", "-psecret", "-P", "3306"],
                &["/bin/mysql", "-uroot", "-p[redacted]", "-P", "3306"],
            ),
            (&["redis-cli", "-a", "pw", "get", "a"], &["redis-cli", "-a", "[redacted]", "get", "a"]),
            (&["sshpass", "-p", "pw", "ssh", "h"], &["sshpass", "-p", "[redacted]", "ssh", "h"]),
            (&["sh", "-c", "redis-cli -a pw get a"], &["sh", "-c", "redis-cli -a [redacted] get a"]),
            (&["curl", "-H", "Authorization: Bearer x", "u"], &["curl", "-H", "Authorization: [redacted]", "u"]),
            (
                &["gate", "-key", "-----BEGIN X-----\nMII\n-----END X-----"],
                &["gate", "-key", "[redacted]\n[redacted]\n[redacted]"],
            ),
            (
                &["php", "worker.php", "--redis", "redis://:pw@h"],
                &["php", "worker.php", "--redis", "redis://:[redacted]@h"],
            ),
        ];
        for (input, output) in cases {
            let owned: Vec<String> = input.iter().map(|word| word.to_string()).collect();
            assert_eq!(argv(&owned), output, "{input:?}");
        }
    }

    proptest::proptest! {
        /// Whatever comes: no panic, and lines stay lines.
        #[test]
        fn lines_stay_lines(input in r#"(password|token|key|--auth|Bearer|redis://|-----BEGIN |-----END |a|=|:|"|'|\\| |@|/|\n|密|\(|x9){0,24}"#) {
            proptest::prop_assert_eq!(text(&input).matches('\n').count(), input.matches('\n').count());
        }

        #[test]
        fn a_value_after_a_telling_name_never_survives(
            name in "(password|DB_PASSWORD|api-key|authToken|client_secret|passphrase)",
            between in r#"(=|: |=\\"|": "|\\": \\"|=')"#,
            value in "zq[a-zA-Z0-9+/!#$%*@-]{4,20}",
        ) {
            let line = format!("start {name}{between}{value}");
            proptest::prop_assert!(!text(&line).contains(&value), "{} -> {}", line, text(&line));
        }
    }
}
