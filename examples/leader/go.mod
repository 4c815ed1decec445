module leader

go 1.19

require kdht v0.0.0

replace kdht => ../../clients/go
