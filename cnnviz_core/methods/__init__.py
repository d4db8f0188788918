"""One module per page, same name. Plain functions: model and image first, the rest keyword-only, one result out."""
