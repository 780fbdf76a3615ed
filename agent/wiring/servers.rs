//! What frees the sockets that a known server leaks, for `unwait discover`: measured on real ones, as `runbooks/README.md` has
//! it with their versions.

/// Words of a main process' command line, and what is to be known of that server.
const SERVERS: [(&[&str], &str); 12] = [
    (
        &["php-fpm"],
        "php-fpm: recycle-workers with `signal: QUIT` where idle workers leak, `signal: TERM` where handlers hang",
    ),
    (&["gunicorn"], "gunicorn: recycle-workers with `kill_after: 35s`; do not reload while handlers hang"),
    (
        &["uwsgi"],
        "uWSGI: recycle-workers with `signal: HUP` where idle workers leak, `signal: TERM` where handlers hang; do not \
         use `reload_signal: USR1`",
    ),
    (&["uvicorn"], "uvicorn: recycle-workers, or reload (HUP)"),
    (
        &["puma"],
        "puma: recycle-workers with `wait: 45s`; reload only with `preload_app! false` in Puma's configuration",
    ),
    (
        &["unicorn"],
        "unicorn: recycle-workers with `signal: QUIT` where idle workers leak, `signal: TERM` where handlers hang",
    ),
    (
        &["apache2", "httpd"],
        "Apache: reload; with MPM prefork also recycle-workers (`signal: USR1`, or `signal: TERM` where handlers \
         hang); with MPM event or worker no recycle-workers",
    ),
    (&["nginx"], "nginx: reload; hung connections are freed only if nginx sets `worker_shutdown_timeout`"),
    (
        &["haproxy"],
        "haproxy: reload; hung connections are freed only if HAProxy sets `hard-stop-after`; no recycle-workers",
    ),
    (
        &["celery"],
        "Celery: reload (HUP); recycle-workers only if Celery sets acks_late and reject_on_worker_lost, or tasks are \
         lost",
    ),
    (
        &["node"],
        "node: isolate-restart-recover; for a cluster recycle-workers; HUP ends node, so set no `reload_signal: HUP`",
    ),
    (&["java"], "a JVM: isolate-restart-recover; HUP ends a JVM, so set no `reload_signal: HUP`"),
];

/// By the command line of a service's main process, its arguments parted by NUL or, where it shows a title, by blanks.
pub fn advice(command_line: &str) -> Option<&'static str> {
    let words = || command_line.split(|c: char| c.is_whitespace() || matches!(c, '\0' | '/' | ':'));
    // `php-fpm8.4`, `node-24`.
    let is_called = |word: &str, name: &str| {
        word.strip_prefix(name).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-')))
    };
    let names = |names: &&[&str]| words().any(|word| names.iter().any(|name| is_called(word, name)));
    SERVERS.iter().find(|(called, _)| names(called)).map(|(_, says)| *says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_command_line_or_title() {
        for (command_line, server) in [
            ("php-fpm: master process (/etc/php/8.4/fpm/php-fpm.conf)", Some("php-fpm")),
            ("/usr/sbin/php-fpm8.4\0--nodaemonize", Some("php-fpm")),
            ("/usr/bin/python3\0-m\0gunicorn\0--threads\0shop:app", Some("gunicorn")),
            ("nginx: master process /usr/sbin/nginx -g daemon on;", Some("nginx")),
            ("/usr/sbin/haproxy\0-Ws\0-f\0/etc/haproxy/haproxy.cfg", Some("haproxy")),
            ("puma 8.0.2 (tcp://0.0.0.0:3000) [shop]", Some("puma")),
            ("/opt/java-21/bin/java\0-jar\0shop.jar", Some("a JVM")),
            ("/usr/bin/node-exporter", None),
            ("/opt/gate/bin/gate", None),
            ("", None),
        ] {
            let found = advice(command_line);
            let is = match server {
                Some(server) => found.is_some_and(|found| found.starts_with(&format!("{server}:"))),
                None => found.is_none(),
            };
            assert!(is, "{command_line:?}: {found:?}");
        }
    }
}
