"""Speed, measured: each benchmark against a straightforward reference in the same run. See docs/performance.md."""
