/* RowFold: the rows that declared projections make of events, which come as binary COPY with a column for each value that a rule reads.
 * Part of _native.c; what it is told to do is written in sequent_py/declared/program.py.
 *
 * Values are bytes, as the server sends them and takes them back; it knows more of whole numbers and UUIDs, which may come as texts.
 */

#define INLINE_BYTES 16
#define UUID_BYTES 16
#define COPY_HEADER 19

enum Rule { NOT_OURS, INSERTS, UPDATES, UPSERTS };
enum Step { KEEPS, ASSIGNS, ADDS, KEEPS_FIRST, TAKES_LAST };

typedef struct { int length; /* -1: NULL */ const unsigned char *data; } Bytes;
typedef struct { int length; union { unsigned char inlined[INLINE_BYTES]; unsigned char *owned; } as; } Cell;
typedef struct { int step, is_constant, number; } Effect_;
typedef struct { int width, begin, keeps_total; Effect_ *effects; } FoldColumn;
typedef struct {
    int is_per_event, rising, columns, first_cell; /* rising: the width of the first column, if an aggregate's rows must come in its order */
    int *rules;
    FoldColumn *column;
    long long rows;
    Buffer written;
} FoldTable;
typedef struct { int is_read, is_negated; long long least, most; } Form_;
typedef struct { int field, width; Form_ *forms; unsigned char value[UUID_BYTES]; } Text_; /* a field that comes as a text, and what it is of each type */
typedef struct { unsigned char id[UUID_BYTES]; unsigned char *alive; Cell *cells; } Aggregate_;

typedef struct {
    PyObject_HEAD
    int types, tables, texts, cells, fields, has_begun, has_ended;
    int *type_ids;
    long long *counts;
    FoldTable *table;
    Text_ *text;
    PyObject *constants; /* a tuple of bytes and None, which the effects refer to */
    Bytes *read;         /* the fields of the row at hand */
    Aggregate_ *aggregates;
    Py_ssize_t size, room;
    Py_ssize_t *places; /* open addressing: 0 is free, otherwise an aggregate's number plus one */
    int place_bits;
    unsigned long long seeds[2]; /* drawn for each fold: whoever chooses aggregate ids cannot choose ones that meet in one place */
} RowFold;

static const unsigned char *cell_data(const Cell *cell) { return cell->length > INLINE_BYTES ? cell->as.owned : cell->as.inlined; }

static int set_cell(Cell *cell, Bytes value) {
    unsigned char *owned = NULL;
    if (value.length > INLINE_BYTES) {
        owned = PyMem_Malloc((size_t)value.length);
        if (owned == NULL) { PyErr_NoMemory(); return -1; }
        memcpy(owned, value.data, (size_t)value.length);
    }
    if (cell->length > INLINE_BYTES) PyMem_Free(cell->as.owned);
    cell->length = value.length;
    if (owned != NULL) cell->as.owned = owned;
    else if (value.length > 0) memcpy(cell->as.inlined, value.data, (size_t)value.length);
    return 0;
}

static long long signed_number(const unsigned char *data, int width) {
    unsigned long long number = get(data, width), sign = 1ULL << (8 * width - 1);
    return width == 8 ? (long long)number : (long long)(number ^ sign) - (long long)sign;
}

/* Adds; 1 where the sum is none of the column's numbers. NULL adds nothing, and what is NULL counts as zero. */
static int add_to_cell(Cell *cell, Bytes amount, int width) {
    if (amount.length < 0) return 0;
    if (amount.length != width) return 1;
    if (cell->length < 0) return set_cell(cell, amount);
    long long sum, most = width == 8 ? INT64_MAX : (1LL << (8 * width - 1)) - 1;
    if (__builtin_add_overflow(signed_number(cell->as.inlined, width), signed_number(amount.data, width), &sum)) return 1;
    if (sum > most || sum < -most - 1) return 1;
    put((char *)cell->as.inlined, (unsigned long long)sum, width);
    return 0;
}

static int write_bytes(Buffer *buffer, int length, const unsigned char *data) {
    char *at = reserve(buffer, 4 + (length > 0 ? length : 0));
    if (at == NULL) return -1;
    at = put(at, (unsigned int)length, 4);
    if (length > 0) memcpy(at, data, (size_t)length);
    return 0;
}

static int begin_row(FoldTable *table, const unsigned char *id) {
    char *at = reserve(&table->written, 2);
    if (at == NULL) return -1;
    put(at, (unsigned long long)(table->columns + 1), 2);
    table->rows++;
    return write_bytes(&table->written, UUID_BYTES, id);
}

static Bytes constant_bytes(RowFold *self, int number) {
    PyObject *constant = number < 0 ? Py_None : PyTuple_GET_ITEM(self->constants, number);
    if (constant == Py_None) return (Bytes){-1, NULL};
    return (Bytes){(int)PyBytes_GET_SIZE(constant), (const unsigned char *)PyBytes_AS_STRING(constant)};
}

static Bytes effect_bytes(RowFold *self, const Effect_ *effect) {
    return effect->is_constant ? constant_bytes(self, effect->number) : self->read[effect->number];
}

/* The next functions return 0 when all is well, 1 where something is odd, and -1 with an exception. */

/* Takes the one way in which the server would write the number; of NULL, too, 1. */
static int whole_number(Bytes text, long long *number) {
    int is_negative = text.length > 0 && text.data[0] == '-', at = is_negative;
    if (text.length <= at || text.length - at > 19 || (text.data[at] == '0' && text.length > 1)) return 1;
    unsigned long long value = 0; /* 19 digits are less than 2^64 */
    for (; at < text.length; at++) {
        if (text.data[at] < '0' || text.data[at] > '9') return 1;
        value = value * 10 + (unsigned long long)(text.data[at] - '0');
    }
    if (value > (unsigned long long)INT64_MAX + (unsigned long long)is_negative) return 1;
    *number = (long long)(is_negative ? 0 - value : value);
    return 0;
}

static int read_number(Text_ *text, const Form_ *form, Bytes given) {
    long long number, most = text->width == 8 ? INT64_MAX : (1LL << (8 * text->width - 1)) - 1;
    if (whole_number(given, &number) || number < form->least || number > form->most) return 1;
    if (form->is_negated && __builtin_sub_overflow(0LL, number, &number)) return 1;
    if (number > most || number < -most - 1) return 1;
    put((char *)text->value, (unsigned long long)number, text->width);
    return 0;
}

static int hexadecimal(unsigned char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

static int read_uuid(Text_ *text, Bytes given) {
    if (given.length != 36) return 1;
    for (int at = 0, byte = 0; at < 36; byte++) {
        if (at == 8 || at == 13 || at == 18 || at == 23)
            if (given.data[at++] != '-') return 1;
        int high = hexadecimal(given.data[at]), low = hexadecimal(given.data[at + 1]);
        if (high < 0 || low < 0) return 1;
        text->value[byte] = (unsigned char)(high << 4 | low);
        at += 2;
    }
    return 0;
}

/* Puts values in the place of their texts. */
static int read_texts(RowFold *self, int type) {
    for (int number = 0; number < self->texts; number++) {
        Text_ *text = &self->text[number];
        const Form_ *form = &text->forms[type];
        if (!form->is_read) continue;
        Bytes *field = &self->read[text->field];
        if (text->width == UUID_BYTES ? read_uuid(text, *field) : read_number(text, form, *field)) return 1;
        *field = (Bytes){text->width, text->value};
    }
    return 0;
}

static int write_event_as_row(RowFold *self, FoldTable *table, int type, Aggregate_ *aggregate) {
    if (begin_row(table, aggregate->id) < 0) return -1;
    for (int number = 0; number < table->columns; number++) {
        FoldColumn *column = &table->column[number];
        Bytes value = effect_bytes(self, &column->effects[type]);
        if (number == 0 && table->rising) {
            Cell *last = &aggregate->cells[table->first_cell];
            if (value.length != table->rising) return 1;
            if (last->length >= 0 && signed_number(value.data, table->rising) <= signed_number(last->as.inlined, table->rising)) return 1;
            if (set_cell(last, value) < 0) return -1;
        }
        if (column->keeps_total) {
            Cell *cell = &aggregate->cells[table->first_cell + number];
            int outcome = add_to_cell(cell, value, column->width);
            if (outcome != 0) return outcome;
            value = (Bytes){cell->length, cell_data(cell)};
        }
        if (write_bytes(&table->written, value.length, value.data) < 0) return -1;
    }
    return 0;
}

static int change_row(RowFold *self, FoldTable *table, int type, Aggregate_ *aggregate, unsigned char *alive) {
    Cell *cells = aggregate->cells + table->first_cell;
    int rule = table->rules[type];
    if (*alive ? rule == INSERTS : rule == UPDATES) return 1;
    if (!*alive && rule == UPSERTS)
        for (int number = 0; number < table->columns; number++)
            if (set_cell(&cells[number], constant_bytes(self, table->column[number].begin)) < 0) return -1;
    *alive = 1;
    for (int number = 0; number < table->columns; number++) {
        FoldColumn *column = &table->column[number];
        const Effect_ *effect = &column->effects[type];
        if (effect->step == KEEPS) continue;
        Bytes value = effect_bytes(self, effect);
        int outcome = 0;
        switch (effect->step) {
        case ASSIGNS: outcome = set_cell(&cells[number], value); break;
        case ADDS: outcome = add_to_cell(&cells[number], value, column->width); break;
        case KEEPS_FIRST: if (cells[number].length < 0) outcome = set_cell(&cells[number], value); break;
        case TAKES_LAST: if (value.length >= 0) outcome = set_cell(&cells[number], value); break;
        }
        if (outcome != 0) return outcome;
    }
    return 0;
}

static Py_ssize_t place_of(RowFold *self, const unsigned char *id) {
    unsigned long long hash = (get(id, 8) * self->seeds[0]) ^ (get(id + 8, 8) * self->seeds[1]);
    Py_ssize_t place = (Py_ssize_t)(hash >> (64 - self->place_bits)), mask = ((Py_ssize_t)1 << self->place_bits) - 1;
    while (self->places[place] != 0 && memcmp(self->aggregates[self->places[place] - 1].id, id, UUID_BYTES) != 0)
        place = (place + 1) & mask;
    return place;
}

static int make_room(RowFold *self) {
    int place_bits = self->room == 0 ? 11 : self->place_bits + 1;
    Py_ssize_t room = (Py_ssize_t)1 << (place_bits - 1);
    Aggregate_ *aggregates = PyMem_Realloc(self->aggregates, (size_t)room * sizeof(Aggregate_));
    if (aggregates == NULL) { PyErr_NoMemory(); return -1; }
    self->aggregates = aggregates;
    Py_ssize_t *places = PyMem_Calloc((size_t)room * 2, sizeof(Py_ssize_t));
    if (places == NULL) { PyErr_NoMemory(); return -1; }
    PyMem_Free(self->places);
    self->places = places;
    self->place_bits = place_bits;
    self->room = room;
    for (Py_ssize_t number = 0; number < self->size; number++) places[place_of(self, aggregates[number].id)] = number + 1;
    return 0;
}

static Aggregate_ *aggregate_of(RowFold *self, const unsigned char *id) {
    if (self->size == self->room && make_room(self) < 0) return NULL;
    Py_ssize_t place = place_of(self, id);
    if (self->places[place] != 0) return &self->aggregates[self->places[place] - 1];
    Cell *cells = PyMem_Malloc((size_t)self->cells * sizeof(Cell) + (size_t)self->tables);
    if (cells == NULL) { PyErr_NoMemory(); return NULL; }
    Aggregate_ *aggregate = &self->aggregates[self->size];
    memcpy(aggregate->id, id, UUID_BYTES);
    aggregate->cells = cells;
    aggregate->alive = (unsigned char *)(cells + self->cells);
    for (int number = 0; number < self->cells; number++) cells[number].length = -1;
    memset(aggregate->alive, 0, (size_t)self->tables);
    self->places[place] = ++self->size;
    return aggregate;
}

static int fold_event(RowFold *self) {
    if (self->read[0].length != UUID_BYTES || self->read[1].length != 4) return 1;
    int type_id = (int)get(self->read[1].data, 4), type = 0;
    while (type < self->types && self->type_ids[type] != type_id) type++;
    if (type == self->types || read_texts(self, type) != 0) return 1;
    Aggregate_ *aggregate = aggregate_of(self, self->read[0].data);
    if (aggregate == NULL) return -1;
    self->counts[type]++;
    for (int number = 0; number < self->tables; number++) {
        FoldTable *table = &self->table[number];
        if (table->rules[type] == NOT_OURS) continue;
        int outcome = table->is_per_event ? write_event_as_row(self, table, type, aggregate)
                                          : change_row(self, table, type, aggregate, &aggregate->alive[number]);
        if (outcome != 0) return outcome;
    }
    return 0;
}

/* A block is a row, the first one with the header before it, or the trailer. */
static int fold_block(RowFold *self, const unsigned char *data, Py_ssize_t size) {
    Py_ssize_t at = 0;
    if (!self->has_begun) {
        if (size < COPY_HEADER || memcmp(data, "PGCOPY\n\xff\r\n", 11) != 0 || get(data + 15, 4) != 0) goto strange;
        self->has_begun = 1;
        at = COPY_HEADER;
        if (at == size) return 0;
    }
    if (self->has_ended || size < at + 2) goto strange;
    if (get(data + at, 2) == 0xffff && size == at + 2) { self->has_ended = 1; return 0; }
    if ((int)get(data + at, 2) != self->fields) goto strange;
    at += 2;
    for (int field = 0; field < self->fields; field++) {
        if (size < at + 4) goto strange;
        int length = (int)get(data + at, 4);
        at += 4;
        if (length < -1 || (length > 0 && size - at < length)) goto strange;
        self->read[field] = (Bytes){length, data + at};
        if (length > 0) at += length;
    }
    if (at != size) goto strange;
    return fold_event(self);
strange:
    PyErr_SetString(PyExc_ValueError, "not a row of the binary COPY that is folded");
    return -1;
}

/* fold(blocks): whether all is well so far; after False nothing more is to be asked. */
static PyObject *rowfold_fold(PyObject *object, PyObject *blocks) {
    RowFold *self = (RowFold *)object;
    PyObject *listed = PySequence_Fast(blocks, "blocks are needed");
    if (listed == NULL) return NULL;
    int outcome = 0;
    for (Py_ssize_t number = 0; outcome == 0 && number < PySequence_Fast_GET_SIZE(listed); number++) {
        Py_buffer view;
        if (PyObject_GetBuffer(PySequence_Fast_GET_ITEM(listed, number), &view, PyBUF_SIMPLE) < 0) { outcome = -1; break; }
        outcome = fold_block(self, view.buf, view.len);
        PyBuffer_Release(&view);
    }
    Py_DECREF(listed);
    return outcome < 0 ? NULL : PyBool_FromLong(outcome == 0);
}

/* end(): writes the rows that are one for each aggregate. */
static PyObject *rowfold_end(PyObject *object, PyObject *unused) {
    RowFold *self = (RowFold *)object;
    for (int number = 0; number < self->tables; number++) {
        FoldTable *table = &self->table[number];
        if (table->is_per_event) continue;
        for (Py_ssize_t at = 0; at < self->size; at++) {
            Aggregate_ *aggregate = &self->aggregates[at];
            if (!aggregate->alive[number]) continue;
            if (begin_row(table, aggregate->id) < 0) return NULL;
            for (int column = 0; column < table->columns; column++) {
                Cell *cell = &aggregate->cells[table->first_cell + column];
                if (write_bytes(&table->written, cell->length, cell_data(cell)) < 0) return NULL;
            }
        }
    }
    Py_RETURN_NONE;
}

/* What was written of a table's rows and not taken; NULL with an exception where there is no such table. */
static Buffer *written_of(PyObject *object, PyObject *number) {
    RowFold *self = (RowFold *)object;
    long table = PyLong_AsLong(number);
    if (table < 0 || table >= self->tables) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_IndexError, "no such table");
        return NULL;
    }
    return &self->table[table].written;
}

/* waiting(table): how many bytes of rows take() would return. */
static PyObject *rowfold_waiting(PyObject *object, PyObject *number) {
    Buffer *written = written_of(object, number);
    return written == NULL ? NULL : PyLong_FromSsize_t(written->used);
}

/* take(table): the rows that were written and not taken, without header and trailer. */
static PyObject *rowfold_take(PyObject *object, PyObject *number) {
    Buffer *written = written_of(object, number);
    if (written == NULL) return NULL;
    PyObject *taken = PyBytes_FromStringAndSize(written->data, written->used);
    if (taken != NULL) written->used = 0;
    return taken;
}

static PyObject *numbers(const long long *values, Py_ssize_t size, Py_ssize_t stride) {
    PyObject *found = PyTuple_New(size);
    for (Py_ssize_t at = 0; found != NULL && at < size; at++) {
        PyObject *value = PyLong_FromLongLong(*(const long long *)((const char *)values + at * stride));
        if (value == NULL) Py_CLEAR(found);
        else PyTuple_SET_ITEM(found, at, value);
    }
    return found;
}

static PyObject *rowfold_counts(PyObject *object, void *unused) {
    return numbers(((RowFold *)object)->counts, ((RowFold *)object)->types, sizeof(long long));
}

static PyObject *rowfold_rows(PyObject *object, void *unused) {
    RowFold *self = (RowFold *)object;
    if (self->tables == 0) return PyTuple_New(0);
    return numbers(&self->table[0].rows, self->tables, sizeof(FoldTable));
}

static PyObject *rowfold_has_ended(PyObject *object, void *unused) { return PyBool_FromLong(((RowFold *)object)->has_ended); }

static void rowfold_dealloc(PyObject *object) {
    RowFold *self = (RowFold *)object;
    for (Py_ssize_t at = 0; at < self->size; at++) {
        Cell *cells = self->aggregates[at].cells;
        for (int number = 0; number < self->cells; number++)
            if (cells[number].length > INLINE_BYTES) PyMem_Free(cells[number].as.owned);
        PyMem_Free(cells);
    }
    for (int number = 0; self->table != NULL && number < self->tables; number++) {
        FoldTable *table = &self->table[number];
        for (int column = 0; table->column != NULL && column < table->columns; column++) PyMem_Free(table->column[column].effects);
        PyMem_Free(table->column);
        PyMem_Free(table->rules);
        PyMem_Free(table->written.data);
    }
    for (int number = 0; self->text != NULL && number < self->texts; number++) PyMem_Free(self->text[number].forms);
    PyMem_Free(self->text);
    PyMem_Free(self->table);
    PyMem_Free(self->aggregates);
    PyMem_Free(self->places);
    PyMem_Free(self->read);
    PyMem_Free(self->counts);
    PyMem_Free(self->type_ids);
    Py_XDECREF(self->constants);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_Free(object);
    Py_DECREF(type);
}

static int is_number_within(int number, Py_ssize_t least, Py_ssize_t size) {
    if (number >= least && number < size) return 1;
    PyErr_SetString(PyExc_ValueError, "a number is out of range");
    return 0;
}

static int is_width(int bytes) {
    if (bytes == 0 || bytes == 2 || bytes == 4 || bytes == 8) return 1;
    PyErr_SetString(PyExc_ValueError, "no width of a whole number");
    return 0;
}

static int read_column(RowFold *self, FoldColumn *column, PyObject *told) {
    PyObject *effects;
    if (!PyArg_ParseTuple(told, "iipO!", &column->width, &column->begin, &column->keeps_total, &PyTuple_Type, &effects)) return -1;
    if (!is_width(column->width)) return -1;
    if (!is_number_within(column->begin, -1, PyTuple_GET_SIZE(self->constants)) || !is_number_within((int)PyTuple_GET_SIZE(effects), self->types, self->types + 1)) return -1;
    column->effects = PyMem_Calloc((size_t)self->types + 1, sizeof(Effect_));
    if (column->effects == NULL) { PyErr_NoMemory(); return -1; }
    for (int type = 0; type < self->types; type++) {
        Effect_ *effect = &column->effects[type];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(effects, type), "ipi", &effect->step, &effect->is_constant, &effect->number)) return -1;
        if (!is_number_within(effect->step, KEEPS, TAKES_LAST + 1)) return -1;
        if (!is_number_within(effect->number, effect->is_constant ? -1 : 0, effect->is_constant ? PyTuple_GET_SIZE(self->constants) : self->fields)) return -1;
        if ((effect->step == ADDS || column->keeps_total) && column->width == 0) {
            PyErr_SetString(PyExc_ValueError, "only whole numbers are added up");
            return -1;
        }
    }
    return 0;
}

static int read_table(RowFold *self, FoldTable *table, PyObject *told) {
    PyObject *rules, *columns;
    if (!PyArg_ParseTuple(told, "piO!O!", &table->is_per_event, &table->rising, &PyTuple_Type, &rules, &PyTuple_Type, &columns)) return -1;
    if (!is_width(table->rising)) return -1;
    if (!is_number_within((int)PyTuple_GET_SIZE(rules), self->types, self->types + 1)) return -1;
    table->rules = PyMem_Calloc((size_t)self->types + 1, sizeof(int));
    table->column = PyMem_Calloc((size_t)PyTuple_GET_SIZE(columns) + 1, sizeof(FoldColumn));
    if (table->rules == NULL || table->column == NULL) { PyErr_NoMemory(); return -1; }
    table->columns = (int)PyTuple_GET_SIZE(columns);
    table->first_cell = self->cells;
    self->cells += table->columns;
    for (int type = 0; type < self->types; type++) {
        table->rules[type] = (int)PyLong_AsLong(PyTuple_GET_ITEM(rules, type));
        if (PyErr_Occurred() || !is_number_within(table->rules[type], NOT_OURS, UPSERTS + 1)) return -1;
    }
    for (int number = 0; number < table->columns; number++)
        if (read_column(self, &table->column[number], PyTuple_GET_ITEM(columns, number)) < 0) return -1;
    return 0;
}

static int read_text_field(RowFold *self, Text_ *text, PyObject *told) {
    PyObject *forms;
    if (!PyArg_ParseTuple(told, "iiO!", &text->field, &text->width, &PyTuple_Type, &forms)) return -1;
    if (text->width != UUID_BYTES && (text->width == 0 || !is_width(text->width))) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no width of a text's value");
        return -1;
    }
    if (!is_number_within(text->field, 2, self->fields) || !is_number_within((int)PyTuple_GET_SIZE(forms), self->types, self->types + 1)) return -1;
    text->forms = PyMem_Calloc((size_t)self->types + 1, sizeof(Form_));
    if (text->forms == NULL) { PyErr_NoMemory(); return -1; }
    for (int type = 0; type < self->types; type++) {
        Form_ *form = &text->forms[type];
        PyObject *told_form = PyTuple_GET_ITEM(forms, type);
        form->is_read = told_form != Py_None;
        if (form->is_read && !PyArg_ParseTuple(told_form, "pLL", &form->is_negated, &form->least, &form->most)) return -1;
    }
    return 0;
}

static PyObject *rowfold_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *words[] = {"fields", "type_ids", "constants", "tables", "texts", "seeds", NULL};
    int fields;
    unsigned long long seeds[2];
    PyObject *type_ids, *constants, *tables, *texts;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iO!O!O!O!(KK)", words, &fields, &PyTuple_Type, &type_ids, &PyTuple_Type, &constants,
                                     &PyTuple_Type, &tables, &PyTuple_Type, &texts, &seeds[0], &seeds[1]))
        return NULL;
    for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(constants); number++) {
        PyObject *constant = PyTuple_GET_ITEM(constants, number);
        if (constant != Py_None && (!PyBytes_Check(constant) || PyBytes_GET_SIZE(constant) > INT32_MAX)) {
            PyErr_SetString(PyExc_TypeError, "constants are bytes, or None");
            return NULL;
        }
    }
    RowFold *self = PyObject_New(RowFold, type);
    if (self == NULL) return NULL;
    memset((char *)self + sizeof(PyObject), 0, sizeof(RowFold) - sizeof(PyObject));
    self->constants = Py_NewRef(constants);
    self->seeds[0] = seeds[0] | 1;
    self->seeds[1] = seeds[1] | 1;
    if (!is_number_within(fields, 2, INT16_MAX)) goto failed;
    self->fields = fields;
    self->types = (int)PyTuple_GET_SIZE(type_ids);
    self->type_ids = PyMem_Calloc((size_t)self->types + 1, sizeof(int));
    self->counts = PyMem_Calloc((size_t)self->types + 1, sizeof(long long));
    self->read = PyMem_Calloc((size_t)fields, sizeof(Bytes));
    self->table = PyMem_Calloc((size_t)PyTuple_GET_SIZE(tables) + 1, sizeof(FoldTable));
    self->text = PyMem_Calloc((size_t)PyTuple_GET_SIZE(texts) + 1, sizeof(Text_));
    if (self->type_ids == NULL || self->counts == NULL || self->read == NULL || self->table == NULL || self->text == NULL) { PyErr_NoMemory(); goto failed; }
    for (int number = 0; number < self->types; number++) {
        self->type_ids[number] = (int)PyLong_AsLong(PyTuple_GET_ITEM(type_ids, number));
        if (PyErr_Occurred()) goto failed;
    }
    while (self->tables < (int)PyTuple_GET_SIZE(tables)) {
        self->tables++;
        if (read_table(self, &self->table[self->tables - 1], PyTuple_GET_ITEM(tables, self->tables - 1)) < 0) goto failed;
    }
    while (self->texts < (int)PyTuple_GET_SIZE(texts)) {
        self->texts++;
        if (read_text_field(self, &self->text[self->texts - 1], PyTuple_GET_ITEM(texts, self->texts - 1)) < 0) goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static PyMethodDef rowfold_methods[] = {
    {"fold", rowfold_fold, METH_O, "Fold rows of a binary COPY, a block each; return whether all is well."},
    {"end", rowfold_end, METH_NOARGS, "Write the rows that are one for each aggregate."},
    {"waiting", rowfold_waiting, METH_O, "Return how many bytes of a table's rows wait."},
    {"take", rowfold_take, METH_O, "Return a table's rows that wait, as binary COPY without header and trailer."},
    {NULL},
};
static PyGetSetDef rowfold_properties[] = {
    {"counts", rowfold_counts, NULL, "How many events of each type there were."},
    {"rows", rowfold_rows, NULL, "How many rows of each table were written."},
    {"has_ended", rowfold_has_ended, NULL, "Whether the trailer has come."},
    {NULL},
};
static PyType_Slot rowfold_slots[] = {
    {Py_tp_new, rowfold_new}, {Py_tp_dealloc, rowfold_dealloc}, {Py_tp_methods, rowfold_methods}, {Py_tp_getset, rowfold_properties}, {0, NULL},
};
static PyType_Spec rowfold_spec = {
    .name = "sequent_py._native.RowFold", .basicsize = sizeof(RowFold), .flags = Py_TPFLAGS_DEFAULT, .slots = rowfold_slots,
};
