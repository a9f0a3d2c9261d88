package guest

// serve answers the host on the control port for as long as the machine runs.
func (m *machine) serve() {}
