#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Moves the finished log of TODO.md (its section "## Log") to .docs/DONE/TODO-<date>.md and leaves an empty log. What
# is above the log, the open items, stays where it is. A second archive on the same day gets a number.
#
#   bash ci/scripts/archive_todo.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

todo=TODO.md
heading='## Log'
if ! grep -qxF "$heading" "$todo"; then
  echo "archive_todo: $todo has no section '$heading': put the finished changes below such a heading" >&2
  exit 1
fi

finished=$(awk -v heading="$heading" 'found && /^## / { exit } found { print } $0 == heading { found = 1 }' "$todo" |
  sed -e '/^<!--.*-->$/d')
if ! grep -q '^- ' <<<"$finished"; then
  echo "archive_todo: the log of $todo is empty, there is nothing to archive" >&2
  exit 1
fi

today=$(date -u +%F)
archive=.docs/DONE/TODO-$today.md
number=2
while [[ -e $archive ]]; do
  archive=.docs/DONE/TODO-$today-$number.md
  number=$((number + 1))
done

# Links of the log are relative to the repository's root; in the archive they start two folders deeper.
mkdir -p .docs/DONE
{
  printf '# Done by %s\n\nThe log of TODO.md, archived by ci/scripts/archive_todo.sh.\n' "$today"
  sed -E 's@\]\((\.?[A-Za-z0-9_][^):]*)\)@](../../\1)@g' <<<"$finished"
} | awk 'NF { for (; blank > 0; blank--) print ""; print; next } { blank = 1 }' >"$archive"

rest=$(mktemp)
trap 'rm -f "$rest"' EXIT
awk -v heading="$heading" '
  $0 == heading {
    print; print ""; print "<!-- newest first: date, what changed, where, and why -->"; print ""
    skipping = 1; next
  }
  skipping && /^## / { skipping = 0 }
  !skipping { print }
' "$todo" | awk 'NF { for (; blank > 0; blank--) print ""; print; next } { blank = 1 }' >"$rest"
cat "$rest" >"$todo"

echo "archive_todo: wrote $archive"
