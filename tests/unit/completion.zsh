# SPDX-License-Identifier: Apache-2.0
# completion.zsh DIRECTORY LINE...: prints what a zsh shows when a tab is pressed behind each LINE.
zmodload zsh/zpty
zpty machine zsh -f -i
zpty -w machine "unsetopt beep; PS1=; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; stty cols 200 rows 50; print RE''ADY"
zpty -r machine seen '*READY*' >/dev/null
for line in ${@:2}; do
  zpty -w -n machine $line$'\t\t'
  sleep 1
  zpty -w -n machine $'\x15'
done
zpty -w machine exit
while zpty -r machine line; do print -r -- "$line"; done
