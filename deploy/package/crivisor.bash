# SPDX-License-Identifier: Apache-2.0
# bash completion for crivisor(8)                                                     -*- shell-script -*-

_crivisor()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
	local words=

	case $prev in
	--config)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--log-level)
		mapfile -t COMPREPLY < <(compgen -W "error warn info debug trace" -- "$cur")
		return
		;;
	esac
	if ((COMP_CWORD == 1)); then
		words="serve check config image version help --help --version"
	else
		case $command in
		serve) words="--config --log-level" ;;
		check) words="--config --json" ;;
		config)
			words="--config"
			((COMP_CWORD > 2)) || words="default check --config"
			;;
		image)
			if ((COMP_CWORD == 2)); then
				words="list import export --config --json"
			elif [[ ${COMP_WORDS[2]} == export ]] && ((COMP_CWORD == 3)); then
				# References hold colons, at which readline would split.
				words=$(crivisor image list 2>/dev/null | awk 'NR > 1 { print $1 }')
				mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
				! declare -F __ltrim_colon_completions >/dev/null || __ltrim_colon_completions "$cur"
				return
			elif [[ $cur != -* && ${COMP_WORDS[2]} != list ]]; then
				compopt -o filenames 2>/dev/null
				mapfile -t COMPREPLY < <(compgen -f -- "$cur")
				return
			else
				words="--config --json"
			fi
			;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _crivisor crivisor
