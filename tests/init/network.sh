# Stands for /lib/functions/network.sh: the device of each network that is up is in the folder `networks`. A name that is
# no network's comes back broken, and as a success: the real one looks it up in a variable of that name.
network_get_device() {
	case "$2" in
	*[!A-Za-z0-9_]*) export -- "$1=$2-l3_device" ;;
	*)
		[ -f "$IPKG_INSTROOT/networks/$2" ] || return 1
		export -- "$1=$(cat "$IPKG_INSTROOT/networks/$2")"
		;;
	esac
}
