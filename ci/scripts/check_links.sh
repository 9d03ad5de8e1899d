#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Checks the relative links and anchors of every Markdown file that is tracked, or new and not ignored. Uses no network:
# links with a scheme are left alone. Prints file:line for every broken link and then fails.
#
#   bash ci/scripts/check_links.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

git_here() { git -c safe.directory='*' -c core.quotePath=false "$@"; }

# Everything a clone would have: files, and the folders they are in. What git ignores is not there for a reader.
declare -A known=([.]=1)
markdown=()
while IFS= read -r file; do
  [[ -e $file ]] || continue # deleted, not committed yet
  known[$file]=1
  folder=$file
  while [[ $folder == */* ]]; do
    folder=${folder%/*}
    [[ -n ${known[$folder]:-} ]] && break
    known[$folder]=1
  done
  [[ $file == *.md ]] && markdown+=("$file")
done < <(git_here ls-files --cached --others --exclude-standard --deduplicate)

if ((${#markdown[@]} == 0)); then
  echo "check_links: no Markdown file found" >&2
  exit 1
fi

# One pass prints `A<tab>file<tab>anchor` for every heading and `L<tab>file<tab>line<tab>target` for every link.
# Headings become anchors as the usual forges make them: lower case, punctuation dropped, spaces to hyphens, -1, -2 … for
# repeats. Fenced blocks and inline code hold no links.
scan() {
  LC_ALL=C awk '
    function slug(text) {
      gsub(/`/, "", text)
      while (match(text, /!?\[[^]]*\]\([^)]*\)/)) {           # a link in a heading counts with its text
        whole = substr(text, RSTART, RLENGTH); label = whole
        sub(/^!?\[/, "", label); sub(/\]\(.*$/, "", label)
        text = substr(text, 1, RSTART - 1) label substr(text, RSTART + RLENGTH)
      }
      text = tolower(text)
      gsub(/\342\200[\220-\277]/, "", text)                   # dashes, quotes and dots of general punctuation
      gsub(/\342\206[\220-\277]/, "", text)                   # arrows
      gsub(/\302[\240-\277]/, "", text)                       # no-break space, middle dot, section sign …
      gsub(/\303\227/, "", text)                              # times
      gsub(/[][!"#$%&\047()*+,.\/:;<=>?@\\^{|}~]/, "", text)
      sub(/^ +/, "", text); sub(/ +$/, "", text)
      gsub(/ /, "-", text)
      return text
    }
    FNR == 1 { fence = ""; split("", seen) }
    {
      line = $0
      sub(/\r$/, "", line)
      if (match(line, /^ *(>|[-*+]|[0-9]+[.)])? *(```+|~~~+)/)) {
        mark = line; sub(/^[^`~]*/, "", mark); match(mark, /^(`+|~+)/); mark = substr(mark, 1, RLENGTH)
        if (fence == "") fence = mark
        else if (substr(mark, 1, 1) == substr(fence, 1, 1) && length(mark) >= length(fence)) fence = ""
        next
      }
      if (fence != "") next
      if (line ~ /^#+ /) {
        text = line; sub(/^#+ +/, "", text); sub(/ +#+ *$/, "", text)
        s = slug(text)
        if (s in seen) { seen[s]++; print "A\t" FILENAME "\t" s "-" seen[s] } else { seen[s] = 0; print "A\t" FILENAME "\t" s }
      }
      rest = line
      while (match(rest, /<a +(id|name)="[^"]*"/)) {
        id = substr(rest, RSTART, RLENGTH); sub(/^[^"]*"/, "", id); sub(/"$/, "", id)
        print "A\t" FILENAME "\t" id
        rest = substr(rest, RSTART + RLENGTH)
      }
      gsub(/``[^`]*``/, "", line); gsub(/`[^`]*`/, "", line)
      if (line ~ /^ *\[[^]^][^]]*\]: +[^ ]/) {                  # [label]: target
        target = line; sub(/^ *\[[^]]*\]: +/, "", target); sub(/ .*$/, "", target)
        print "L\t" FILENAME "\t" FNR "\t" target
      }
      while (match(line, /\]\(<[^>]*>[^)]*\)|\]\([^()]*(\([^()]*\)[^()]*)*\)/)) {
        target = substr(line, RSTART + 2, RLENGTH - 3)
        if (target ~ /^</) { sub(/^</, "", target); sub(/>.*$/, "", target) } else { sub(/^ +/, "", target); sub(/ .*$/, "", target) }
        print "L\t" FILENAME "\t" FNR "\t" target
        line = substr(line, RSTART + RLENGTH)
      }
    }
  ' "$@"
}

declare -A anchors=()
links=()
while IFS= read -r record; do
  case $record in
    A*) IFS=$'\t' read -r _ file anchor <<<"$record"; anchors[$file#$anchor]=1 ;;
    L*) links+=("$record") ;;
  esac
done < <(scan "${markdown[@]}")

# normal makes a/b/../c into a/c. It fails for a path that leaves the repository.
normal() {
  local part parts out=()
  IFS=/ read -ra parts <<<"$1"
  for part in "${parts[@]}"; do
    case $part in
      '' | .) ;;
      ..) ((${#out[@]} > 0)) || return 1; unset 'out[-1]' ;;
      *) out+=("$part") ;;
    esac
  done
  local IFS=/
  path=${out[*]:-.}
}

checked=0
broken=0
complain() {
  echo "$1:$2: $3" >&2
  broken=$((broken + 1))
}
for record in ${links[@]+"${links[@]}"}; do
  IFS=$'\t' read -r _ file line target <<<"$record"
  [[ $target =~ ^[A-Za-z][A-Za-z0-9+.-]*: || $target == //* ]] && continue
  checked=$((checked + 1))
  if [[ -z $target ]]; then
    complain "$file" "$line" "empty link"
    continue
  fi
  anchor=
  [[ $target == *'#'* ]] && anchor=${target#*#}
  raw=${target%%#*}
  raw=${raw%%\?*}
  printf -v raw '%b' "${raw//%/\\x}"
  if [[ -z $raw ]]; then
    path=$file
  else
    folder=.
    [[ $file == */* ]] && folder=${file%/*}
    [[ $raw == /* ]] && folder=.
    if ! normal "$folder/$raw"; then
      complain "$file" "$line" "$target leaves the repository"
      continue
    fi
    if [[ -z ${known[$path]:-} ]]; then
      complain "$file" "$line" "$target: there is no $path"
      continue
    fi
  fi
  if [[ -n $anchor && $path == *.md && -z ${anchors[$path#$anchor]:-} ]]; then
    complain "$file" "$line" "$target: $path has no heading for #$anchor"
  fi
done

if ((broken > 0)); then
  echo "check_links: $broken of $checked links are broken" >&2
  exit 1
fi
echo "check_links: $checked links in ${#markdown[@]} Markdown files are good"
