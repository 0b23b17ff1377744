"""Which tile, block and vector width: pure functions of a problem and a device."""
