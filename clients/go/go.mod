module kdht

go 1.19
